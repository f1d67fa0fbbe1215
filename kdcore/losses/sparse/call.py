"""What one loss is of, for every implementation."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.shards import Shard

__all__ = ["Call", "compute_dtype", "grad_dtype"]


@dataclass(frozen=True)
class Call:
    """All but the tensors that have a gradient. Of the head, whole or sharded, `num_outputs` classes count."""

    labels: SoftLabels | None
    targets: Tensor
    weights: Tensor | None
    objective: Objective
    rules: LogitRules
    num_outputs: int
    chunk_tokens: int
    recompute: bool
    gradient_filter: float
    shard: Shard
    fused: bool
    """Whether the passes over a chunk's logits are Triton's."""


def compute_dtype(hidden: Tensor) -> torch.dtype:
    """The type that matrix products run in."""
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype


def grad_dtype(parameter: Tensor) -> torch.dtype:
    """The type that a parameter's gradient is kept in: its own, or a wider one that was chosen by its `grad_dtype`."""
    # torch 2.11 refuses the question of what is no leaf.
    return (parameter.grad_dtype if parameter.is_leaf else None) or parameter.dtype
