"""What tests of losses of relations share: features of a few batches, sums over samples, gradients by differences."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

from tests.support.features import normal

FEATURE = "layer"


def shapes_and_seeds() -> Iterator[tuple[Tensor, Tensor]]:
    """Vectors of a few batches, the student's and the teacher's of other widths."""
    for seed, (batch, ours, theirs) in enumerate([(2, 1, 3), (3, 4, 2), (5, 3, 7)]):
        yield normal(seed, batch, ours), normal(100 + seed, batch, theirs)


def pairs(batch: int) -> Iterator[tuple[int, int]]:
    """All of a sample with a sample, itself too."""
    return product(range(batch), repeat=2)


def right_slope(loss: Callable[..., Tensor], student: Tensor, *others: Any) -> bool:
    """Whether the student's gradient is that of differences, in float64 and along random directions."""
    return torch.autograd.gradcheck(lambda ours: loss(ours, *others), student.clone().requires_grad_(), fast_mode=True)


def outputs(module: str, value: Tensor) -> dict[str, dict[str, Tensor]]:
    """A network's features as torchdistill hands them to a loss."""
    return {module: {"output": value}}


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors."""
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def apart(a: Tensor, b: Tensor) -> float:
    """Distance of two vectors."""
    return math.dist(a.tolist(), b.tolist())
