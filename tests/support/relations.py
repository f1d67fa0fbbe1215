"""What tests of losses of relations share: random features, plain sums over samples, gradients by differences."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

FEATURE = "layer"


def features(*shape: int, seed: int = 0) -> Tensor:
    """Normal, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shapes_and_seeds() -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors of a few batches, the student's and the teacher's of other widths."""
    for seed, (batch, ours, theirs) in enumerate([(2, 1, 3), (3, 4, 2), (5, 3, 7)]):
        yield features(batch, ours, seed=seed), features(batch, theirs, seed=100 + seed)


def pairs(batch: int) -> Iterator[tuple[int, int]]:
    """All of a sample with a sample, itself too."""
    return product(range(batch), repeat=2)


def right_slope(loss: Callable[..., Tensor], student: Tensor, *others: Any) -> bool:
    """Whether the student's gradient is that of differences, in float64."""
    return torch.autograd.gradcheck(lambda ours: loss(ours, *others), student.clone().requires_grad_())


def outputs(module: str, value: Tensor) -> dict[str, dict[str, Tensor]]:
    """A network's features as torchdistill hands them to a loss."""
    return {module: {"output": value}}
