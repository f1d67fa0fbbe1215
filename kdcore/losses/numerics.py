"""What keeps losses exact and their slopes finite, for all families."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["SMALLEST_NORM", "Exact", "unit", "wide"]

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


class Exact(nn.Module):
    """A module whose buffers are sums over many batches, and stay in `wide` where a network is cast to bfloat16."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Exact":
        super()._apply(fn, recurse)
        for name, buffer in self._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                self._buffers[name] = wide(buffer)
        return self
