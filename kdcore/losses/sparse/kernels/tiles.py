"""What all kernels share: sizes of tiles, the order of programs, and one tile of logits."""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from kdcore.losses.sparse.head import LogitRules

__all__ = ["INTERPRETED", "Head", "Tiles", "grouped", "logits_tile", "ruled", "rules_of_logits", "slope", "tiles_of"]

INTERPRETED: bool = knobs.runtime.interpret
"""Whether TRITON_INTERPRET=1 was set when triton was first imported: kernels then run on the CPU, in numpy."""


@dataclass(frozen=True)
class Tiles:
    """Sizes of tiles of logits, rows x columns from `depth` hidden dimensions at a time, and how programs run."""

    rows: int
    columns: int
    depth: int
    segment: int
    """Consecutive tiles of one row block that one program of the first pass goes through."""
    warps: int
    stages: int
    width: int
    """Hidden dimensions of a tile of gradients, from `step` rows or columns at a time."""
    step: int
    product_warps: int
    product_stages: int

    def of_logits(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of kernels that make logits from tensors of this type."""
        sizes = {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth, "GROUP": 8}
        return {**sizes, **_dot_rules(dtype), "num_warps": self.warps, "num_stages": self.stages}

    def of_products(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of kernels that make gradients from tensors of this type."""
        sizes = {"ROWS": self.rows, "COLUMNS": self.columns, "STEP": self.step, "WIDTH": self.width, "GROUP": 8}
        return {**sizes, **_dot_rules(dtype), "num_warps": self.product_warps, "num_stages": self.product_stages}


def _dot_rules(dtype: torch.dtype) -> dict[str, Any]:
    """How float32 is multiplied, and that numpy has no bfloat16, whose products float32 holds exactly."""
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    return {"PRECISION": "ieee" if exact else "tf32", "UPCAST": INTERPRETED}


@dataclass(frozen=True)
class Head:
    """The output layer, or a vocabulary shard of it: `weight` [V, D] and `bias` [V] or None, both contiguous."""

    weight: Tensor
    bias: Tensor | None
    rules: LogitRules

    @property
    def shape_of_logits(self) -> dict[str, Any]:
        """`rules_of_logits` of this head."""
        return rules_of_logits(self.rules)


def rules_of_logits(rules: LogitRules) -> dict[str, Any]:
    """Arguments of kernels: z = ceiling tanh(scale u) with a soft-cap, else z = scale u."""
    cap = rules.softcap
    return {"scale": rules.scale / (cap or 1.0), "ceiling": cap or 1.0, "SOFTCAP": cap is not None}


def tiles_of(dtype: torch.dtype) -> Tiles:
    """Fixed sizes: two bytes a value for H100 and H200 (two programs share a multiprocessor, so that one multiplies
    while the other takes exponentials); four bytes for exactness more than for speed; in the interpreter the smallest
    that a tensor core takes, so that small shapes have several tiles.
    """
    if INTERPRETED:
        return Tiles(16, 32, 32, segment=2, warps=4, stages=1, width=32, step=16, product_warps=4, product_stages=1)
    if dtype.itemsize == 2:
        return Tiles(128, 128, 64, segment=8, warps=4, stages=3, width=256, step=64, product_warps=8, product_stages=4)
    return Tiles(64, 64, 32, segment=8, warps=4, stages=2, width=64, step=32, product_warps=4, product_stages=2)


@triton.jit
def grouped(program, row_blocks, column_blocks, GROUP: tl.constexpr):
    """Row block and column block of a program: GROUP row blocks go through the columns together, sharing the cache."""
    each = GROUP * column_blocks
    first = program // each * GROUP
    size = tl.minimum(row_blocks - first, GROUP)
    place = program % each
    return first + place % size, place // size


@triton.jit
def logits_tile(
    hidden, head, bias, rows, columns, width, scale, ceiling,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Logits float32 [ROWS, COLUMNS] of tokens `rows` and classes `columns`, int64 and inside."""
    depth = tl.arange(0, DEPTH)
    left = hidden + rows[:, None] * width + depth[None, :]
    right = head + columns[:, None] * width + depth[None, :]
    z = tl.full([ROWS, COLUMNS], 0.0, tl.float32)
    for start in range(0, width, DEPTH):
        inside = start + depth[None, :] < width
        a = tl.load(left + start, mask=inside, other=0.0)
        b = tl.load(right + start, mask=inside, other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        z = tl.dot(a, tl.trans(b), z, input_precision=PRECISION)
    if bias is not None:
        z += tl.load(bias + columns).to(tl.float32)[None, :]
    return ruled(z, scale, ceiling, SOFTCAP)


@triton.jit
def ruled(u, scale, ceiling, SOFTCAP: tl.constexpr):
    """The logits z of the head's outputs u."""
    z = u * scale
    if SOFTCAP:
        z = ceiling * (2.0 * tl.sigmoid(2.0 * z) - 1.0)
    return z


@triton.jit
def slope(z, scale, ceiling, SOFTCAP: tl.constexpr):
    """d z / d u of logits z, of the head's outputs u."""
    if SOFTCAP:
        share = z / ceiling
        result = (1.0 - share * share) * (scale * ceiling)
    else:
        result = tl.zeros_like(z) + scale
    return result
