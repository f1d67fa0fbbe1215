"""First pass: the logsumexp, the largest and the mean of the logits of all classes that no label names."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcore.losses.sparse.kernels.tiles import Head, grouped, logits_tile, tiles_of
from kdcore.losses.sparse.shards import Partial

__all__ = ["partial_sums", "sorted_names"]

_NO_CLASS = 2**31 - 1


def sorted_names(ids: Tensor, num_rows: int) -> Tensor:
    """Of ids [T, K] those that are rows 0 .. num_rows - 1, rising, int32 [T, K]; `_NO_CLASS` for the others."""
    outside = (ids < 0) | (ids >= num_rows)
    return ids.masked_fill(outside, _NO_CLASS).to(torch.int32).sort(1).values


def partial_sums(hidden: Tensor, head: Head, names: Tensor, first: int, end: int) -> Partial:
    """Over the rows first .. end - 1 of the head that are not among `names` [T, K], of each token of `hidden` [T, D].

    `names` are from `sorted_names`.
    """
    if first == end:
        return Partial.nothing(hidden.new_empty(len(hidden), dtype=torch.float32))
    tokens, width = hidden.shape
    tiles = tiles_of(hidden.dtype)
    span = tiles.segment * tiles.columns
    starts = torch.arange(first, end, span, dtype=torch.int32, device=hidden.device)
    segments = len(starts)
    sums = torch.empty(3, segments, tokens, dtype=torch.float32, device=hidden.device)
    places = torch.searchsorted(names, starts.expand(tokens, segments).contiguous(), out_int32=True)
    grid = (triton.cdiv(tokens, tiles.rows) * segments,)
    _partial_sums[grid](
        hidden, head.weight, head.bias, names, places, sums, tokens, width, names.shape[1], first, end, segments,
        span, **head.shape_of_logits, **tiles.of_logits(hidden.dtype),
    )  # fmt: skip
    return Partial.joined(*sums)


@triton.jit
def _partial_sums(
    hidden, head, bias, named, places, sums, tokens, width, entries, first, end, segments, span, scale, ceiling,
    SOFTCAP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
    GROUP: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    row_block, segment = grouped(tl.program_id(0), tl.cdiv(tokens, ROWS), segments, GROUP)
    places_of_rows = row_block * ROWS + tl.arange(0, ROWS)
    rows = tl.minimum(places_of_rows, tokens - 1).to(tl.int64)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    moment = tl.full([ROWS], 0.0, tl.float32)
    # The next named class of each row; the tiles come in rising order, so each is met once.
    place = tl.load(places + rows * segments + segment)
    name = tl.load(named + rows * entries + place, mask=place < entries, other=2147483647)
    begin = first + segment * span
    for start in range(begin, tl.minimum(begin + span, end), COLUMNS):
        classes = start + tl.arange(0, COLUMNS)
        columns = tl.minimum(classes, end - 1).to(tl.int64)
        z = logits_tile(
            hidden, head, bias, rows, columns, width, scale, ceiling,
            SOFTCAP, ROWS, COLUMNS, DEPTH, PRECISION, UPCAST,
        )  # fmt: skip
        z = tl.where((classes < end)[None, :], z, float("-inf"))
        while tl.min(name, 0) < start + COLUMNS:
            z = tl.where(classes[None, :] == name[:, None], float("-inf"), z)
            place += (name < start + COLUMNS).to(tl.int32)
            name = tl.load(named + rows * entries + place, mask=place < entries, other=2147483647)
        larger = tl.maximum(best, tl.max(z, 1))
        base = tl.where(larger == float("-inf"), 0.0, larger)
        shares = tl.exp(z - base[:, None])
        factor = tl.exp(best - base)
        total = total * factor + tl.sum(shares, 1)
        moment = moment * factor + tl.sum(tl.where(shares > 0.0, z, 0.0) * shares, 1)
        best = larger
    live = places_of_rows < tokens
    where = segment.to(tl.int64)
    tl.store(sums + where * tokens + rows, best, mask=live)
    tl.store(sums + (where + segments) * tokens + rows, total, mask=live)
    tl.store(sums + (where + 2 * segments) * tokens + rows, moment, mask=live)
