"""Products with the head, and their gradients summed over chunks: factors narrow, sums wide."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Gradients", "scaled_to", "wide_product", "wide_type"]

_ROWS = 8_192
"""Of the head that are worked on at a time, where a tensor of a gradient's or a chunk's size in a second type would be
most of the memory."""
_HALVES = (torch.bfloat16, torch.float16)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """What sums over products of this type are kept in: float32, of float64 float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@dataclass
class Gradients:
    """d_hidden [N, D] in the type of `hidden`; d_head and d_bias wide, since they are summed over chunks."""

    hidden: Tensor | None
    head: Tensor | None
    bias: Tensor | None

    @classmethod
    def zeros(
        cls, hidden: Tensor, head: Tensor, bias: Tensor | None, needs: tuple[bool, ...], wide: torch.dtype
    ) -> "Gradients":
        """Of those that `needs` (hidden states, head, bias) says."""
        return cls(
            torch.zeros_like(hidden) if needs[0] else None,
            torch.zeros_like(head, dtype=wide) if needs[1] else None,
            torch.zeros_like(bias, dtype=wide) if bias is not None and needs[2] else None,
        )

    def add(self, part: slice, d_outputs: Tensor, inputs: Tensor, matrix: Tensor) -> None:
        """The share of one chunk, whose head has `matrix`: d_outputs [n, rows of matrix] are of the head's outputs."""
        rows, wide = len(matrix), wide_type(inputs.dtype)
        d_hidden = torch.zeros_like(inputs, dtype=wide)
        # At once, where no copy in the type of products is to be made.
        step = rows if d_outputs.dtype == inputs.dtype else _ROWS
        for first in range(0, rows, step):
            block = slice(first, min(first + step, rows))
            narrow = d_outputs[:, block].to(inputs.dtype)
            if self.hidden is not None:
                _add_product(d_hidden, narrow, matrix[block])
            if self.head is not None:
                _add_product(self.head[block], narrow.T, inputs)
        if self.hidden is not None:
            self.hidden[part] = d_hidden
        if self.bias is not None:
            self.bias[:rows] += d_outputs.sum(0, dtype=wide)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif _widens(left):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


def _widens(factor: Tensor) -> bool:
    """Whether the device gives a product in float32 without rounding to the inputs' type first."""
    return factor.is_cuda and torch.version.hip is None and factor.dtype in _HALVES


def wide_product(left: Tensor, right: Tensor, wide: torch.dtype) -> Tensor:
    """left @ right in the wide type."""
    if left.dtype == wide:
        return left @ right
    if _widens(left):
        return torch.mm(left, right, out_dtype=wide)
    product = torch.empty(len(left), right.shape[1], dtype=wide, device=left.device)
    for columns, part in zip(product.split(_ROWS, 1), right.split(_ROWS, 1), strict=True):
        columns.copy_(left @ part)
    return product


def scaled_to(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient x factor in `dtype`, without a wider tensor of its size on the way."""
    scaled = torch.empty_like(gradient, dtype=dtype)
    if gradient.is_cuda:  # which rounds as it writes
        return torch.mul(gradient, factor, out=scaled)
    for rows, part in zip(scaled.split(_ROWS), gradient.split(_ROWS), strict=True):
        rows.copy_(part * factor)
    return scaled
