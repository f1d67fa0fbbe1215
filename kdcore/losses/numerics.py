"""What keeps losses exact and their slopes finite, for all families."""

import torch
from torch import Tensor

__all__ = ["SMALLEST_NORM", "unit", "wide"]

SMALLEST_NORM = 1e-12
"""A vector that is shorter has no direction."""


def wide(tensor: Tensor) -> Tensor:
    """At least float32: half and bfloat16 are promoted, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def unit(tensor: Tensor, dim: int = -1) -> Tensor:
    """Vectors along `dim` brought to length one, in `wide`. One without a direction is left alone, its slope one."""
    tensor = wide(tensor)
    squares = tensor.square().sum(dim, keepdim=True)
    return tensor / torch.where(squares > SMALLEST_NORM**2, squares, 1.0).sqrt()
