"""Small random features in float64, for references that are written as loops."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

FEW = settings(max_examples=8, deadline=None)
SEEDS = st.integers(0, 10_000)
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
"""B, C, H and W."""


def normal(seed: int, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(seed: int, size: tuple[int, ...], channels: int | None = None) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's, the latter with other channels where they are given."""
    return normal(seed, *size), normal(seed + 1, size[0], channels or size[1], *size[2:])


def length(vector: list[float]) -> float:
    """The Euclidean norm, in Python."""
    return sum(x * x for x in vector) ** 0.5
