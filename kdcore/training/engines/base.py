"""What the loop asks of an engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from kdcore.config.training import OptimizerConfig
from kdcore.errors import CheckpointError
from kdcore.training.batches import Batch

Accept = Callable[[Tensor], bool]
"""Told the norm of the whole gradient, a scalar, before it is clipped: whether to take the step."""


class Engine(Protocol):
    """Holds model and optimizer. Every rank calls every method, in the same order."""

    name: str

    def facts(self) -> dict[str, Any]:
        """What a checkpoint notes of who wrote it: `engine`, and what `load` must know, as JSON."""
        ...

    def accumulate(
        self, batch: Batch, scale: float, last: bool, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of one micro-batch.

        The gradient, once summed over micro-batches and ranks, is that of scale x loss sum; `last` marks the last
        micro-batch of the step, which comes after a share `progress` of all steps. Returns the detached loss sum and
        metric sums of this rank.
        """
        ...

    def update(self, learning_rate: float, accept: Accept) -> None:
        """Clip the gradient's norm and do the optimizer step, if `accept` says so; clear the gradient in any case.

        `accept` is called once on every rank, after all gradients were exchanged and before anything changed.
        """
        ...

    def save(self, directory: Path) -> None:
        """Write model and optimizer under `directory`, which exists on every rank.

        An OSError that one rank met (a full disk) is raised there once all ranks are through.
        """
        ...

    def load(self, directory: Path, facts: dict[str, Any]) -> None:
        """Read what `save` wrote, with the `facts` of then; CheckpointError when it does not fit this run.

        Called only once every rank can open all files: some engines read them between collectives.
        """
        ...

    def student_state(self) -> dict[str, Tensor]:
        """The student's whole state dict on the CPU (float32 where floating); empty on ranks other than the first."""
        ...

    def close(self) -> None:
        """Release what the engine holds beyond its model."""
        ...


def parameter_groups(module: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Matrices are decayed, vectors (norms, biases) are not."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def optimizer_settings(config: OptimizerConfig) -> dict[str, Any]:
    """Keywords of torch's class of optimizer, without learning rate and decay."""
    names = {"epsilon": "eps"}
    return {names.get(name, name): value for name, value in config.parameters.items()}


def renew_settings(optimizer: Optimizer, module: nn.Module, config: OptimizerConfig) -> None:
    """Give the groups of `parameter_groups` the settings of the recipe, where a checkpoint brought those of its own."""
    for group, wanted in zip(optimizer.param_groups, parameter_groups(module, config), strict=True):
        group.update(weight_decay=wanted["weight_decay"], **optimizer_settings(config))


def refuse_other_optimizer(config: OptimizerConfig, directory: Path, facts: dict[str, Any]) -> None:
    """CheckpointError for a checkpoint of another type of optimizer, whose state means nothing to this one."""
    wrote = facts.get("optimizer", "adamw")  # before there was another, none was noted
    if wrote != config.type:
        raise CheckpointError(
            f"the checkpoint {directory} has the state of {wrote}, and training.optimizer.type is '{config.type}': set "
            "it as it was, or remove the arm's directory"
        )


def refuse_other_engine(name: str, directory: Path, facts: dict[str, Any]) -> None:
    """CheckpointError for a checkpoint of another engine, whose files mean nothing to the engine `name`."""
    wrote = facts.get("engine")
    if wrote != name:
        raise CheckpointError(
            f"the checkpoint {directory} was written by the {wrote} engine, and this run has the {name} engine: set "
            "training.engine.type as it was, or remove the arm's directory"
        )
