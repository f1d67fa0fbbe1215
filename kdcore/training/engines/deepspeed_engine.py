"""DeepSpeed: ZeRO stages 0 to 3, on GPUs or CPUs."""

import importlib
import logging
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from kdcore.config import TrainingConfig
from kdcore.config.training import DeepSpeedEngineConfig
from kdcore.errors import CheckpointError, ConfigError, missing_extra
from kdcore.training.batches import Batch
from kdcore.training.engines.base import parameter_groups
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks

_TAG = "state"
# Set by this project from other settings; in `extra` they would silently disagree with those.
_OURS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "optimizer", "scheduler")


class DeepSpeedEngine:
    """DeepSpeed's engine around the module; its optimizer is torch's AdamW under ZeRO."""

    name = "deepspeed"

    def __init__(
        self,
        model: DistillModel,
        config: TrainingConfig,
        settings: DeepSpeedEngineConfig,
        ranks: Ranks,
        micro_batches: int,
    ) -> None:
        self._ranks, self._stage = ranks, settings.zero_stage
        self._micro_batches = micro_batches
        deepspeed = _import_deepspeed(ranks)
        _join_group(ranks)
        if self._stage == 3:
            # The head is used outside of its own module's forward.
            head = getattr(model.student, "get_output_embeddings", lambda: None)()
            for parameter in [] if head is None else head.parameters():
                deepspeed.zero.register_external_parameter(model, parameter)
        self._engine: Any = deepspeed.initialize(
            model=model.to(ranks.device).train(),
            model_parameters=parameter_groups(model, config.optimizer),
            config=deepspeed_settings(config, settings, ranks, micro_batches),
            dist_init_required=False,
        )[0]
        self._model = model

    def accumulate(self, batch: Batch, scale: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """See Engine. DeepSpeed takes the mean over ranks and micro-batches; we want the sum."""
        self._engine.set_gradient_accumulation_boundary(last)
        loss, metrics = self._engine(batch)
        self._engine.backward(loss * (scale * self._ranks.world * self._micro_batches))
        if not last:
            self._engine.step()  # counts the micro-batch; parameters change only at the last one
        return loss.detach(), metrics

    def update(self, learning_rate: float) -> None:
        """See Engine."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()

    def save(self, directory: Path) -> None:
        """See Engine. Every rank writes its part."""
        self._engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)

    def load(self, directory: Path) -> None:
        """See Engine. These files are pickles: they are read only after their digests were compared."""
        if not (directory / _TAG).is_dir():
            raise CheckpointError(
                f"a checkpoint of the deepspeed engine holds '{_TAG}/', {directory} does not; it was likely written by "
                "another engine: set training.engine as it was, or remove the arm's directory"
            )
        try:
            path, _ = self._engine.load_checkpoint(str(directory), tag=_TAG)
        except Exception as error:  # DeepSpeed raises plain exceptions and assertions here
            raise self._misfit(directory, str(error)) from error
        if path is None:
            raise self._misfit(directory, "DeepSpeed did not accept it")

    def _misfit(self, directory: Path, reason: str) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {directory} does not fit {self._ranks.world} rank(s) at ZeRO {self._stage}: {reason}; "
            "continue with the cluster.workers and zero_stage it was written with, or remove the arm's directory"
        )

    def student_state(self) -> dict[str, Tensor]:
        """See Engine. Parameters come from the float32 masters, gathered one at a time."""
        from deepspeed.utils import safe_get_full_fp32_param

        state: dict[str, Tensor] = {}
        full: dict[int, Tensor] = {}
        for parameter in self._model.student.parameters():
            value = safe_get_full_fp32_param(parameter)  # a collective: every rank, same order
            if self._ranks.first:
                full[id(parameter)] = (parameter if value is None else value).detach().float().cpu().clone()
        if self._ranks.first:
            for name, value in self._model.student.state_dict(keep_vars=True).items():
                state[name] = full[id(value)] if id(value) in full else value.detach().cpu()
        return state

    def close(self) -> None:
        """Remove DeepSpeed's hooks."""
        self._engine.destroy()


def deepspeed_settings(
    config: TrainingConfig, settings: DeepSpeedEngineConfig, ranks: Ranks, micro_batches: int
) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, and `extra` merged into it. ConfigError for keys that are ours alone."""
    taken = sorted(set(settings.extra) & set(_OURS))
    if taken:
        raise ConfigError(
            f"training.engine.extra must not set {taken}, which follow from training.batch_size, micro_batch_size and "
            "optimizer; set those instead"
        )
    optimizer = config.optimizer
    adam = {
        "lr": optimizer.learning_rate,
        "betas": list(optimizer.betas),
        "eps": optimizer.epsilon,
        "weight_decay": optimizer.weight_decay,
        "torch_adam": True,
    }
    ours: dict[str, Any] = {
        # Loss sums are scaled by us, so that these two only say how many micro-batches make a step.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": config.gradient_clip,
        "optimizer": {"type": "AdamW", "params": adam},
        "zero_optimization": {"stage": settings.zero_stage},
        "bf16": {"enabled": config.precision == "bfloat16"},
        "steps_per_print": 10**9,
    }
    return _merge(ours, settings.extra)


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _import_deepspeed(ranks: Ranks) -> Any:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    os.environ.setdefault("LOCAL_RANK", str(ranks.device.index or 0))  # DeepSpeed insists on a launcher's variable
    if ranks.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        deepspeed = importlib.import_module("deepspeed")
    except ImportError as error:
        raise missing_extra("deepspeed", "deepspeed", "training.engine.type: deepspeed") from error
    if ranks.device.type == "cpu":
        # Its shared-memory all-reduce is compiled on first use (a C++ compiler and a minute); gloo does the same work.
        importlib.import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _join_group(ranks: Ranks) -> None:
    """A group of one where there is none: DeepSpeed needs one, and keeps the first it sees for the process's life."""
    if not dist.is_initialized():
        backend = "nccl" if ranks.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
