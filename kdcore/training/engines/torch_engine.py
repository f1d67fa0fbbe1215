"""Plain torch: AdamW or SGD, DistributedDataParallel for more than one rank, autocast for bfloat16."""

import inspect
import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdcore.config import TrainingConfig
from kdcore.errors import CheckpointError
from kdcore.training.batches import Batch
from kdcore.training.engines.base import (
    Accept,
    optimizer_settings,
    parameter_groups,
    refuse_other_engine,
    refuse_other_optimizer,
    renew_settings,
)
from kdcore.training.engines.state_file import save_state
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks
from kdcore.training.statistics import share_statistics

_FILE = "state.pt"
# torch renamed it.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"


class TorchEngine:
    """Parameters, gradients and optimizer are float32 and whole on every rank."""

    name = "torch"

    def __init__(self, model: DistillModel, config: TrainingConfig, ranks: Ranks) -> None:
        self._config, self._ranks = config, ranks
        self._model = model.to(ranks.device).train()
        self._wrapped: nn.Module = model
        if ranks.world > 1:
            ids = [ranks.device.index] if ranks.device.type == "cuda" else None
            # Each rank's statistics are of its own samples: see share_statistics.
            options: dict[str, Any] = {_SYNC_BUFFERS: False, "find_unused_parameters": model.leaves_out()}
            self._wrapped = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **options)
        settings = config.optimizer
        kind = torch.optim.SGD if settings.type == "sgd" else torch.optim.AdamW
        self._optimizer = kind(
            parameter_groups(model, settings), lr=settings.learning_rate, fused=True, **optimizer_settings(settings)
        )

    def facts(self) -> dict[str, Any]:
        """See Engine."""
        return {"engine": self.name, "optimizer": self._config.optimizer.type}

    def accumulate(
        self, batch: Batch, scale: float, last: bool, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Engine. Gradients travel between ranks once a step, with the last micro-batch."""
        bfloat16 = self._config.precision == "bfloat16"
        silent = isinstance(self._wrapped, DistributedDataParallel) and not last
        with self._wrapped.no_sync() if silent else nullcontext():  # pyright: ignore[reportCallIssue]
            with torch.autocast(self._ranks.device.type, torch.bfloat16, enabled=bfloat16):
                loss, metrics = self._wrapped(batch, progress)
            # DistributedDataParallel takes the mean over ranks; we want the sum.
            with self._model.recomputing(batch):
                (loss * (scale * self._ranks.world)).backward()
        return loss.detach(), metrics

    def update(self, learning_rate: float, accept: Accept) -> None:
        """See Engine."""
        parameters = [parameter for parameter in self._model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        accepted = accept(norm)
        if accepted:
            nn.utils.clip_grads_with_norm_(parameters, self._config.gradient_clip, norm)
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._model.settle(accepted, self._ranks)

    def save(self, directory: Path) -> None:
        """See Engine. Tensors and plain numbers only, so that loading runs no code."""
        share_statistics(self._model.student, self._ranks)
        if self._ranks.first:
            state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
            save_state(state, directory / _FILE)

    def load(self, directory: Path, facts: dict[str, Any]) -> None:
        """See Engine. Any number of ranks reads what any other wrote."""
        refuse_other_engine(self.name, directory, facts)
        refuse_other_optimizer(self._config.optimizer, directory, facts)
        try:
            state = torch.load(directory / _FILE, map_location=self._ranks.device, weights_only=True)
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            renew_settings(self._optimizer, self._model, self._config.optimizer)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"a checkpoint holds tensors and numbers alone, {directory / _FILE} more; nothing of it was run. "
                "It is not one of ours: remove the arm's directory"
            ) from error
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint {directory} is of another model or optimizer: {error}; remove the arm's directory"
            ) from error

    def student_state(self) -> dict[str, Tensor]:
        """See Engine."""
        share_statistics(self._model.student, self._ranks)
        if not self._ranks.first:
            return {}
        return {name: value.detach().cpu() for name, value in self._model.student.state_dict().items()}

    def close(self) -> None:
        """Nothing to release."""
