"""The sparse side of the passes: logits of named classes, and what these add to the gradients.

Entries are pairs of a token and a class, K a token. Their cost is 2 T K D operations a product beside 2 T V D of the
dense side, but every entry reads a row of D values, mostly from the cache.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcore.losses.sparse.kernels.tiles import INTERPRETED, Head, ruled

__all__ = ["Entries", "entries_by_class", "logits_of", "rows_of_classes", "weighted_rows"]

_ENTRIES, _DEPTH = (8, 32) if INTERPRETED else (16, 256)
_TILE: dict[str, Any] = {"ENTRIES": _ENTRIES, "DEPTH": _DEPTH, "num_warps": 4}
_CLASSES = 16
"""Consecutive classes of one program of the scatter: most have no entry."""


def logits_of(hidden: Tensor, head: Head, ids: Tensor) -> Tensor:
    """Logits float32 [T, K] of the classes `ids` int64 [T, K]; -inf for ids that are no row of this head."""
    out = torch.empty(ids.shape, dtype=torch.float32, device=hidden.device)
    tokens, entries = ids.shape
    if out.numel():
        _logits_of[(tokens, triton.cdiv(entries, _ENTRIES))](
            hidden, head.weight, head.bias, ids, out, head.weight.shape[0], hidden.shape[1], entries,
            **head.shape_of_logits, **_TILE,
        )  # fmt: skip
    return out


@triton.jit
def _logits_of(
    hidden, head, bias, ids, out, num_rows, width, entries, scale, ceiling,
    SOFTCAP: tl.constexpr, ENTRIES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * ENTRIES + tl.arange(0, ENTRIES)
    classes = tl.load(ids + row * entries + places, mask=places < entries, other=-1)
    inside = (classes >= 0) & (classes < num_rows)
    u = tl.full([ENTRIES], 0.0, tl.float32)
    for start in range(0, width, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        a = tl.load(hidden + row * width + depth, mask=depth < width, other=0.0).to(tl.float32)
        where = inside[:, None] & (depth < width)[None, :]
        b = tl.load(head + classes[:, None] * width + depth[None, :], mask=where, other=0.0).to(tl.float32)
        u += tl.sum(b * a[None, :], 1)
    if bias is not None:
        u += tl.load(bias + classes, mask=inside, other=0.0).to(tl.float32)
    z = ruled(u, scale, ceiling, SOFTCAP)
    tl.store(out + row * entries + places, tl.where(inside, z, float("-inf")), mask=places < entries)


def weighted_rows(weight: Tensor, ids: Tensor, factors: Tensor) -> Tensor:
    """sum_k factors[t, k] weight[ids[t, k]], float32 [T, D]; ids that are no row of `weight` [V, D] add nothing."""
    tokens, entries = ids.shape
    num_rows, width = weight.shape
    out = torch.empty(tokens, width, dtype=torch.float32, device=weight.device)
    _weighted_rows[(tokens, triton.cdiv(width, _DEPTH))](weight, ids, factors, out, num_rows, width, entries, **_TILE)
    return out


@triton.jit
def _weighted_rows(weight, ids, factors, out, num_rows, width, entries, ENTRIES: tl.constexpr, DEPTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    depth = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    total = tl.full([DEPTH], 0.0, tl.float32)
    for start in range(0, entries, ENTRIES):
        places = start + tl.arange(0, ENTRIES)
        classes = tl.load(ids + row * entries + places, mask=places < entries, other=-1)
        inside = (classes >= 0) & (classes < num_rows)
        factor = tl.load(factors + row * entries + places, mask=inside, other=0.0)
        where = inside[:, None] & (depth < width)[None, :]
        values = tl.load(weight + classes[:, None] * width + depth[None, :], mask=where, other=0.0).to(tl.float32)
        total += tl.sum(values * factor[:, None], 0)
    tl.store(out + row * width + depth, total, mask=depth < width)


@dataclass(frozen=True)
class Entries:
    """Entries in the order of their classes, ties in that of tokens: `rows` and `factors` [T K]; class c has the
    entries bounds[c] .. bounds[c + 1] - 1 of `bounds` int64 [V + 1].
    """

    rows: Tensor
    factors: Tensor
    bounds: Tensor


def entries_by_class(ids: Tensor, factors: Tensor, num_rows: int) -> Entries:
    """Of `ids` int64 and `factors` [T, K]; ids outside of 0 .. num_rows - 1 are in no class."""
    classes, order = ids.flatten().sort(stable=True)
    bounds = torch.searchsorted(classes, torch.arange(num_rows + 1, device=ids.device))
    return Entries(order // ids.shape[1], factors.flatten()[order], bounds)


def rows_of_classes(hidden: Tensor, entries: Entries, first: int, end: int) -> tuple[Tensor, Tensor]:
    """Of classes first .. end - 1 the sums of factors times rows of `hidden` [T, D], and of factors: [C, D] and [C]."""
    width = hidden.shape[1]
    out = torch.zeros(end - first, width, dtype=torch.float32, device=hidden.device)
    sums = torch.zeros(end - first, dtype=torch.float32, device=hidden.device)
    _rows_of_classes[(triton.cdiv(end - first, _CLASSES), triton.cdiv(width, _DEPTH))](
        hidden, entries.rows, entries.factors, entries.bounds, out, sums, width, first, end, _CLASSES, **_TILE,
    )  # fmt: skip
    return out, sums


@triton.jit
def _rows_of_classes(
    hidden, rows, factors, bounds, out, sums, width, first, end, classes,
    ENTRIES: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    begin = first + tl.program_id(0) * classes
    depth = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    for number in range(begin, tl.minimum(begin + classes, end)):
        low = tl.load(bounds + number)
        high = tl.load(bounds + number + 1)
        if low < high:
            total = tl.full([DEPTH], 0.0, tl.float32)
            weight = tl.full([ENTRIES], 0.0, tl.float32)
            for start in range(low, high, ENTRIES):
                places = start + tl.arange(0, ENTRIES)
                inside = places < high
                factor = tl.load(factors + places, mask=inside, other=0.0)
                row = tl.load(rows + places, mask=inside, other=0)
                where = inside[:, None] & (depth < width)[None, :]
                values = tl.load(hidden + row[:, None] * width + depth[None, :], mask=where, other=0.0)
                total += tl.sum(values.to(tl.float32) * factor[:, None], 0)
                weight += factor
            place = (number - first).to(tl.int64)
            tl.store(out + place * width + depth, total, mask=depth < width)
            if tl.program_id(1) == 0:
                tl.store(sums + place, tl.sum(weight, 0))
