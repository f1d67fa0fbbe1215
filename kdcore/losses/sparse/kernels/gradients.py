"""Second pass: the gradients of hidden states and head, some thousand classes at a time.

With z the logits made again, each group of classes has the coefficient g [T] and the logsumexp l [T], and

    dense[t, j] = g_t e^min(z_tj - l_t, 0) slope_tj,
    d hidden += dense @ head rows,      d head rows = dense^T @ hidden + what entries add.

For a class of the group z <= l, so that this is its gradient; a named class, which is none, has at most g here, and its
entry subtracts just that: no large numbers cancel, and tiles need not look for named classes.
Nothing is added by atomics: each program owns what it writes, so that results are the same in every run.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcore.losses.sparse.kernels.gathers import Entries, rows_of_classes
from kdcore.losses.sparse.kernels.tiles import INTERPRETED, Head, Tiles, grouped, logits_tile, slope, tiles_of

__all__ = ["Gradients", "add_group"]

_BUFFER_BYTES = 1 << 13 if INTERPRETED else 1 << 28
"""Of each of the two buffers: `dense`, and the rows that entries add to."""


@dataclass(frozen=True)
class Gradients:
    """Those that are needed: `hidden` float32 [T, D], which is added to; `head` [V, D] and `bias` [V], written."""

    hidden: Tensor | None
    head: Tensor | None
    bias: Tensor | None


def add_group(
    hidden: Tensor,
    head: Head,
    group: tuple[int, int],
    lse: Tensor,
    coefficient: Tensor,
    limit: Tensor | None,
    entries: Entries,
    found: Gradients,
) -> None:
    """Add to `found.hidden`, and write `found.head` and `found.bias`, of the classes group[0] .. group[1] - 1.

    `lse` and `coefficient` [T] are l and g. With `limit` [T], tiles in which no |dense| is above it are left out.
    """
    if group[0] == group[1]:
        return
    tiles = tiles_of(hidden.dtype)
    tokens, width = hidden.shape
    padded = triton.cdiv(tokens, tiles.rows) * tiles.rows
    room = _BUFFER_BYTES // max(padded * hidden.element_size(), width * 4)
    size = min(max(room // tiles.columns, 1), triton.cdiv(group[1] - group[0], tiles.columns)) * tiles.columns
    dense = torch.empty(padded, size, dtype=hidden.dtype, device=hidden.device)
    for first in range(*group, size):
        end = min(first + size, group[1])
        used = _fill(hidden, head, lse, coefficient, limit, dense, first, end, tiles)
        if found.hidden is not None:
            _multiply_hidden(dense, head, used, found.hidden, first, end, tiles)
        if found.head is not None or found.bias is not None:
            _multiply_head(dense, hidden, used, entries, found, first, end, tiles)


def _fill(
    hidden: Tensor,
    head: Head,
    lse: Tensor,
    coefficient: Tensor,
    limit: Tensor | None,
    dense: Tensor,
    first: int,
    end: int,
    tiles: Tiles,
) -> Tensor | None:
    """Fill `dense`; with `limit`, which tiles [row blocks, column blocks] were: int32 0 or 1."""
    row_blocks, column_blocks = len(dense) // tiles.rows, triton.cdiv(end - first, tiles.columns)
    used = None
    if limit is not None:
        used = torch.empty(row_blocks, column_blocks, dtype=torch.int32, device=hidden.device)
    _dense_tile[(row_blocks * column_blocks,)](
        hidden, head.weight, head.bias, lse, coefficient, limit, dense, used,
        hidden.shape[0], hidden.shape[1], dense.shape[1], first, end, **head.shape_of_logits,
        **tiles.of_logits(hidden.dtype),
    )  # fmt: skip
    return used


@triton.jit
def _dense_tile(
    hidden, head, bias, lse, coefficient, limit, dense, used, tokens, width, stride, first, end, scale, ceiling,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    column_blocks = tl.cdiv(end - first, COLUMNS)
    row_block, column_block = grouped(tl.program_id(0), tl.cdiv(tokens, ROWS), column_blocks, GROUP)
    places = row_block * ROWS + tl.arange(0, ROWS)
    rows = tl.minimum(places, tokens - 1).to(tl.int64)
    classes = first + column_block * COLUMNS + tl.arange(0, COLUMNS)
    columns = tl.minimum(classes, end - 1).to(tl.int64)
    z = logits_tile(
        hidden, head, bias, rows, columns, width, scale, ceiling, SOFTCAP, ROWS, COLUMNS, DEPTH, PRECISION, UPCAST
    )
    value = tl.exp(tl.minimum(z - tl.load(lse + rows)[:, None], 0.0)) * tl.load(coefficient + rows)[:, None]
    value *= slope(z, scale, ceiling, SOFTCAP)
    value = tl.where((places < tokens)[:, None] & (classes < end)[None, :], value, 0.0)
    out = dense + places.to(tl.int64)[:, None] * stride + (classes - first)[None, :]
    if limit is None:
        tl.store(out, value.to(dense.dtype.element_ty))
    else:
        above = tl.abs(value) > tl.load(limit + rows)[:, None]
        keep = tl.max(tl.max(above.to(tl.int32), 1), 0)
        tl.store(used + row_block * column_blocks + column_block, keep)
        if keep > 0:  # pyright: ignore[reportOperatorIssue]
            tl.store(out, value.to(dense.dtype.element_ty))


def _in_use(used: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Of each row of `used` the numbers of the blocks in use, first and in order, and how many they are; int32."""
    if used is None:
        return None, None
    order = torch.argsort(used, dim=1, descending=True, stable=True)
    return order.to(torch.int32), used.sum(1, dtype=torch.int32)


def _multiply_hidden(
    dense: Tensor, head: Head, used: Tensor | None, d_hidden: Tensor, first: int, end: int, tiles: Tiles
) -> None:
    order, counts = _in_use(used)
    tokens, width = d_hidden.shape
    _add_hidden[(len(dense) // tiles.rows * triton.cdiv(width, tiles.width),)](
        dense, head.weight, order, counts, d_hidden, tokens, width, dense.shape[1], first, end,
        **tiles.of_products(dense.dtype),
    )  # fmt: skip


@triton.jit
def _add_hidden(
    dense, head, order, counts, d_hidden, tokens, width, stride, first, end,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    column_blocks = tl.cdiv(end - first, COLUMNS)
    row_block, depth_block = grouped(tl.program_id(0), tl.cdiv(tokens, ROWS), tl.cdiv(width, WIDTH), GROUP)
    rows = (row_block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    depth = depth_block * WIDTH + tl.arange(0, WIDTH)
    in_width = (depth < width)[None, :]
    total = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    parts: tl.constexpr = COLUMNS // STEP
    blocks = column_blocks
    if order is not None:
        blocks = tl.load(counts + row_block)
    for number in range(0, blocks * parts):
        block = number // parts
        if order is not None:
            block = tl.load(order + row_block * column_blocks + block)
        places = block * COLUMNS + number % parts * STEP + tl.arange(0, STEP)  # pyright: ignore[reportOperatorIssue]
        # `dense` is 0 beyond the last class.
        columns = tl.minimum(first + places, end - 1).to(tl.int64)
        a = tl.load(dense + rows[:, None] * stride + places[None, :])
        b = tl.load(head + columns[:, None] * width + depth[None, :], mask=in_width, other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    out = d_hidden + rows[:, None] * width + depth[None, :]
    live = (rows < tokens)[:, None] & in_width
    tl.store(out, total + tl.load(out, mask=live, other=0.0), mask=live)


def _multiply_head(
    dense: Tensor,
    hidden: Tensor,
    used: Tensor | None,
    entries: Entries,
    found: Gradients,
    first: int,
    end: int,
    tiles: Tiles,
) -> None:
    added, added_bias = rows_of_classes(hidden, entries, first, end)
    order, counts = _in_use(None if used is None else used.T.contiguous())
    tokens, width = hidden.shape
    _write_head[(triton.cdiv(end - first, tiles.columns) * triton.cdiv(width, tiles.width),)](
        dense, hidden, order, counts, added, added_bias, found.head, found.bias,
        tokens, width, dense.shape[1], first, end,
        **tiles.of_products(dense.dtype),
    )  # fmt: skip


@triton.jit
def _write_head(
    dense, hidden, order, counts, added, added_bias, d_head, d_bias, tokens, width, stride, first, end,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row_blocks = tl.cdiv(tokens, ROWS)
    column_blocks = tl.cdiv(end - first, COLUMNS)
    column_block, depth_block = grouped(tl.program_id(0), column_blocks, tl.cdiv(width, WIDTH), GROUP)
    places = (column_block * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    depth = depth_block * WIDTH + tl.arange(0, WIDTH)
    in_width = (depth < width)[None, :]
    live = (first + places < end)[:, None] & in_width
    total = tl.load(added + places[:, None] * width + depth[None, :], mask=live, other=0.0)
    bias_total = tl.load(added_bias + places, mask=first + places < end, other=0.0)
    parts: tl.constexpr = ROWS // STEP
    blocks = row_blocks
    if order is not None:
        blocks = tl.load(counts + column_block)
    for number in range(0, blocks * parts):
        block = number // parts
        if order is not None:
            block = tl.load(order + column_block * row_blocks + block)
        steps = number % parts * STEP + tl.arange(0, STEP)  # pyright: ignore[reportOperatorIssue]
        rows = (block * ROWS + steps).to(tl.int64)
        # `dense` is 0 beyond the last token.
        safe_rows = tl.minimum(rows, tokens - 1)
        a = tl.load(dense + rows[:, None] * stride + places[None, :])
        b = tl.load(hidden + safe_rows[:, None] * width + depth[None, :], mask=in_width, other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
        if d_bias is not None:
            bias_total += tl.sum(a.to(tl.float32), 0)
    if d_head is not None:
        out = d_head + (first + places)[:, None] * width + depth[None, :]
        tl.store(out, total.to(d_head.dtype.element_ty), mask=live)
    if d_bias is not None:  # noqa: SIM102  # triton decides the outer condition when it compiles
        if depth_block == 0:
            tl.store(d_bias + first + places, bias_total.to(d_bias.dtype.element_ty), mask=first + places < end)
