"""Two passes over the logits of a chunk, which cuBLAS made: each reads them once, in float32, and no more is kept.

The first finds, per token and group of classes, the largest logit, the sum of exponentials and that of exponentials
times logits; the second writes the gradient in the type that products run in. Both make the logits z of the head's
outputs u as they read them, so that bias, scale and soft-cap cost no pass. Outputs at or below HOLE are no class.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcore.losses.sparse.chunk import HOLE
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.kernels.tiles import INTERPRETED, ruled, rules_of_logits, slope
from kdcore.losses.sparse.shards import Partial

__all__ = ["find", "spread", "write_entries"]

_COLUMNS = 32 if INTERPRETED else 4096
"""Classes of one row that one program reads: 32 a thread."""
_ENTRIES: dict[str, Any] = {"ENTRIES": 16 if INTERPRETED else 256, "num_warps": 4}
"""That one program writes."""


def find(outputs: Tensor, bias: Tensor | None, rules: LogitRules, first: int, end: int) -> Partial:
    """Over the columns first .. end - 1 of `outputs` float32 [N, V], contiguous; `bias` [V] is added to them."""
    tokens, segments = len(outputs), triton.cdiv(end - first, _COLUMNS)
    if tokens * segments == 0:
        return Partial.nothing(outputs.new_empty(tokens))
    sums = torch.empty(3, segments, tokens, dtype=torch.float32, device=outputs.device)
    _find[(tokens * segments,)](
        outputs, bias, sums, tokens, outputs.shape[1], first, end, segments, **_arguments(rules)
    )  # fmt: skip
    return Partial.joined(*sums)


def spread(
    outputs: Tensor,
    bias: Tensor | None,
    rules: LogitRules,
    first: int,
    end: int,
    base: Tensor,
    coefficient: Tensor,
    out: Tensor,
) -> None:
    """Write coefficient e^(z - base) dz/du to the columns first .. end - 1 of `out` [N, V], 0 where there is a hole.

    `base` [N] is at least z, or the coefficient is 0; `out`, contiguous and of any type, may be `outputs` itself.
    """
    segments = triton.cdiv(end - first, _COLUMNS)
    if len(outputs) * segments:
        _spread[(len(outputs) * segments,)](
            outputs, bias, base, coefficient, out, outputs.shape[1], first, end, segments, **_arguments(rules)
        )  # fmt: skip


def write_entries(out: Tensor, columns: Tensor, values: Tensor) -> None:
    """out[n, columns[n, k]] = values[n, k] of `columns` int64 and `values` float32 [N, K]; nothing where it is -1."""
    columns, values = columns.contiguous(), values.contiguous()
    if columns.numel():
        _write_entries[(triton.cdiv(columns.numel(), _ENTRIES["ENTRIES"]),)](
            columns, values, out, columns.numel(), columns.shape[1], out.shape[1], **_ENTRIES
        )  # fmt: skip


def _arguments(rules: LogitRules) -> dict[str, Any]:
    return {**rules_of_logits(rules), "HOLE": HOLE, "COLUMNS": _COLUMNS, "num_warps": 4}


@triton.jit
def _read(
    outputs, bias, row, columns, inside, width, scale, ceiling,
    SOFTCAP: tl.constexpr, HOLE: tl.constexpr,
):  # fmt: skip
    """Logits float32 of one row, and HOLE for those that are none or not `inside`."""
    u = tl.load(outputs + row * width + columns, mask=inside, other=HOLE)
    hole = u <= HOLE / 2
    if bias is not None:
        u += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    return tl.where(hole, HOLE, ruled(tl.where(hole, 0.0, u), scale, ceiling, SOFTCAP))


@triton.jit
def _find(
    outputs, bias, sums, tokens, width, first, end, segments, scale, ceiling,
    SOFTCAP: tl.constexpr, HOLE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # Segments of a row come one after another, as its columns are in memory.
    row = (tl.program_id(0) // segments).to(tl.int64)
    segment = tl.program_id(0) % segments
    columns = first + segment * COLUMNS + tl.arange(0, COLUMNS)
    z = _read(outputs, bias, row, columns, columns < end, width, scale, ceiling, SOFTCAP, HOLE)
    best = tl.max(z, 0)
    empty = best <= HOLE / 2
    shares = tl.exp(z - tl.where(empty, 0.0, best))
    place = segment * tokens + row
    tl.store(sums + place, tl.where(empty, float("-inf"), best))
    tl.store(sums + place + segments * tokens, tl.sum(shares, 0))
    tl.store(sums + place + 2 * segments * tokens, tl.sum(shares * z, 0))


@triton.jit
def _spread(
    outputs, bias, base, coefficient, out, width, first, end, segments, scale, ceiling,
    SOFTCAP: tl.constexpr, HOLE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // segments).to(tl.int64)
    segment = tl.program_id(0) % segments
    columns = first + segment * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < end
    z = _read(outputs, bias, row, columns, inside, width, scale, ceiling, SOFTCAP, HOLE)
    value = tl.exp(z - tl.load(base + row)) * tl.load(coefficient + row)
    # The slope at a hole, which is infinite, would not leave it 0.
    value *= slope(tl.where(z <= HOLE / 2, 0.0, z), scale, ceiling, SOFTCAP)
    tl.store(out + row * width + columns, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _write_entries(columns, values, out, count, entries, width, ENTRIES: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    column = tl.load(columns + places, mask=places < count, other=-1)
    value = tl.load(values + places, mask=places < count, other=0.0)
    tl.store(out + places // entries * width + column, value.to(out.dtype.element_ty), mask=column >= 0)
