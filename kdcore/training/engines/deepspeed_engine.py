"""DeepSpeed: ZeRO stages 0 to 3, on GPUs or CPUs."""

import importlib
import logging
import os
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdcore.config import TrainingConfig
from kdcore.config.training import DeepSpeedEngineConfig
from kdcore.errors import CheckpointError, missing_extra
from kdcore.training.batches import Batch
from kdcore.training.engines.base import (
    Accept,
    parameter_groups,
    refuse_other_engine,
    refuse_other_optimizer,
    renew_settings,
)
from kdcore.training.engines.deepspeed_norm import gate
from kdcore.training.engines.deepspeed_settings import deepspeed_settings
from kdcore.training.engines.state_file import save_state
from kdcore.training.engines.universal import momentum_from_adam, universal_checkpoint
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks
from kdcore.training.statistics import saved_buffers, share_statistics, widen_statistics

_TAG = "state"
_FORMATS = {0: "whole", 1: "optimizer", 2: "optimizer", 3: "parameters"}  # what each rank writes its part of


class DeepSpeedEngine:
    """DeepSpeed's engine around the module; its optimizer is torch's AdamW or SGD under ZeRO."""

    name = "deepspeed"

    def __init__(
        self,
        model: DistillModel,
        config: TrainingConfig,
        settings: DeepSpeedEngineConfig,
        ranks: Ranks,
        accumulates: bool,
    ) -> None:
        self._ranks, self._stage = ranks, settings.zero_stage
        self._optimizer_settings = config.optimizer
        # That there may be several is all it has to know: each is told whether it is the last of its step.
        self._micro_batches = 2 if accumulates else 1
        self._frozen = _frozen(model) if ranks.first and config.precision == "bfloat16" else {}
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
            config=deepspeed_settings(config, settings, ranks, self._micro_batches),
            dist_init_required=False,
        )[0]
        widen_statistics(model)  # DeepSpeed casts parameters alone
        self._model = model
        self._undo_trial_step()
        self._problem: OSError | None = None
        self._engine.checkpoint_engine.save = self._write
        self._engine._copy_recovery_script = lambda directory: None  # programs, beside data

    def _undo_trial_step(self) -> None:
        """At stage 0 in bfloat16 DeepSpeed makes the moments by a step of zeros, which counts and decays."""
        masters = self._masters()
        if masters:
            self._engine.optimizer.optimizer.state.clear()
        for parameter in self._model.parameters():
            if id(parameter) in masters:
                masters[id(parameter)].data.copy_(parameter.data)

    def facts(self) -> dict[str, Any]:
        """See Engine. Another number of ranks or stage reads a checkpoint only once it is converted."""
        facts = {"engine": self.name, "zero_stage": self._stage, "world": self._ranks.world}
        return {**facts, "optimizer": self._optimizer_settings.type}

    def accumulate(
        self, batch: Batch, scale: float, last: bool, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Engine. DeepSpeed takes the mean over ranks and micro-batches; we want the sum."""
        self._engine.set_gradient_accumulation_boundary(last)
        loss, metrics = self._engine(batch, progress)
        with self._model.recomputing(batch):
            self._engine.backward(loss * (scale * self._ranks.world * self._micro_batches))
        if not last:
            self._engine.step()  # counts the micro-batch; parameters change only at the last one
        return loss.detach(), metrics

    def update(self, learning_rate: float, accept: Accept) -> None:
        """See Engine."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        word: list[bool] = []

        def heard(norm: Tensor) -> bool:
            word.append(accept(norm))
            return word[-1]

        with gate(self._engine, self._stage, heard):
            self._engine.step()
        self._model.settle(word[-1], self._ranks)

    def save(self, directory: Path) -> None:
        """See Engine. Every rank writes its part, at stage 0 the first one all."""
        self._problem = None
        share_statistics(self._model.student, self._ranks)
        self._engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)
        if self._problem is not None:
            raise self._problem

    def _write(self, state_dict: Any, path: str) -> None:
        """In place of DeepSpeed's: on a full disk the rank still takes part in what the others wait for."""
        try:
            save_state(state_dict, Path(path))
        except OSError as error:
            self._problem = self._problem or error

    def load(self, directory: Path, facts: dict[str, Any]) -> None:
        """See Engine. These files are pickles: they are read only after their digests were compared."""
        refuse_other_engine(self.name, directory, facts)
        refuse_other_optimizer(self._optimizer_settings, directory, facts)
        if _FORMATS[facts["zero_stage"]] != _FORMATS[self._stage]:
            raise self._misfit(directory, f"DeepSpeed at stage {facts['zero_stage']} writes other files")
        as_it_is = all(facts.get(name, value) == value for name, value in self.facts().items())
        universal = self._stage > 0 and not as_it_is
        source = universal_checkpoint(directory, _TAG, self._ranks) if universal else directory
        try:
            self._engine._config.load_universal_checkpoint = universal
            path, _ = self._engine.load_checkpoint(str(source), tag=_TAG)
            if universal:
                self._load_buffers(directory / _TAG)
        except Exception as error:  # DeepSpeed raises plain exceptions and assertions here
            raise self._misfit(directory, str(error)) from error
        if path is None:
            raise self._misfit(directory, "DeepSpeed did not accept it")
        self._mend_optimizer()

    @torch.no_grad()
    def _load_buffers(self, files: Path) -> None:
        """From the first rank's file as it was written: a universal form has parameters alone."""
        places = saved_buffers(self._model)
        if not places:
            return
        held = torch.load(min(files.glob("*model_states.pt")), map_location="cpu", weights_only=False, mmap=True)
        names = {module: name for name, module in self._model.named_modules()}
        for module, name in places:
            module.get_buffer(name).copy_(held["module"][f"{names[module]}.{name}".lstrip(".")])

    def _mend_optimizer(self) -> None:
        """Settings and counters as they were: at stage 3 a universal load gives all groups those of the first."""
        optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        renew_settings(optimizer, self._model, self._optimizer_settings)
        if self._optimizer_settings.type == "sgd":
            momentum_from_adam(optimizer)
        for state in optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()  # one counter for all would be counted up by each

    def _misfit(self, directory: Path, reason: str) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {directory} does not fit {self._ranks.world} rank(s) at ZeRO {self._stage}: {reason}; "
            "continue with the cluster.workers and zero_stage it was written with, or remove the arm's directory"
        )

    def student_state(self) -> dict[str, Tensor]:
        """See Engine. Trained parameters come from the float32 masters, gathered one at a time."""
        share_statistics(self._model.student, self._ranks)
        state: dict[str, Tensor] = {}
        full: dict[int, Tensor] = {}
        masters = self._masters()
        for parameter in self._model.student.parameters():
            value = masters.get(id(parameter), self._whole(parameter))  # a collective: every rank, same order
            if self._ranks.first:
                full[id(parameter)] = self._frozen.get(id(parameter), value).detach().float().cpu().clone()
        if self._ranks.first:
            for name, value in self._model.student.state_dict(keep_vars=True).items():
                state[name] = full[id(value)] if id(value) in full else value.detach().cpu()
        return state

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad and self._stage > 0:
            value = safe_get_full_fp32_param(parameter)
            assert value is not None, "ZeRO holds every trained parameter"
            return value
        if self._stage < 3:
            return parameter
        deepspeed = importlib.import_module("deepspeed")
        with deepspeed.zero.GatheredParameters([parameter]):  # frozen: no optimizer holds it
            return parameter.detach().clone()

    def _masters(self) -> dict[int, Tensor]:
        """The float32 originals of stage 0's bfloat16 parameters, by the id of the parameter; else none."""
        narrow, wide = (getattr(self._engine.optimizer, name, []) for name in ("fp16_groups", "fp32_groups"))
        if self._stage > 0:
            return {}
        pairs = zip(chain.from_iterable(narrow), chain.from_iterable(wide), strict=True)
        return {id(parameter): master for parameter, master in pairs}

    def close(self) -> None:
        """Remove DeepSpeed's hooks."""
        self._engine.destroy()


def _frozen(model: nn.Module) -> dict[int, Tensor]:
    """What is not trained, by the id of its parameter, in host memory: DeepSpeed keeps it in bfloat16 alone."""
    return {id(value): value.detach().cpu() for value in model.parameters() if not value.requires_grad}


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
