"""What the loop asks of an engine."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from kdcore.config.training import OptimizerConfig
from kdcore.training.batches import Batch


class Engine(Protocol):
    """Holds model and optimizer. Every rank calls every method, in the same order."""

    name: str

    def accumulate(self, batch: Batch, scale: float, last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of one micro-batch.

        The gradient, once summed over micro-batches and ranks, is that of scale x loss sum; `last` marks the last
        micro-batch of the step. Returns the detached loss sum and metric sums of this rank.
        """
        ...

    def update(self, learning_rate: float) -> None:
        """Clip the gradient's norm, do the optimizer step, clear the gradient."""
        ...

    def save(self, directory: Path) -> None:
        """Write model and optimizer under `directory`, which exists on every rank."""
        ...

    def load(self, directory: Path) -> None:
        """Read what `save` wrote; CheckpointError when it does not fit this run."""
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
