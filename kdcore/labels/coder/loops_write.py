"""Labels to coded pieces, compiled: what `CoderModel.symbols` and `CoderModel.pieces` do, many times faster.

Unsigned for the reasons given in `loops.py`.
"""

import numpy as np

from kdcore.labels.coder.jit import jit

__all__ = ["label_pieces"]

_jit = jit()
U64 = np.uint64


@_jit
def _bucket(value):  # noqa: ANN001, ANN202  numba infers the types
    """Symbol and number of plain bits, see `buckets.py`."""
    if value < U64(4):
        return value, U64(0)
    shift = U64(0)
    top = value >> U64(3)
    while top > U64(0):
        shift += U64(1)
        top >>= U64(1)
    return (shift << U64(2)) + (value >> shift), shift


@_jit
def _put(symbol, context, table, frequencies, starts, at):  # noqa: ANN001, ANN202
    """A symbol in its context: the next position."""
    start = table[context, symbol]
    frequencies[at] = table[context, symbol + U64(1)] - start
    starts[at] = start
    return at + U64(1)


@_jit
def _put_plain(value, bits, frequencies, starts, at):  # noqa: ANN001, ANN202
    """The low `bits` of a number, at most 12 at a time: the next position."""
    while bits > U64(0):
        width = min(bits, U64(12))
        bits -= width
        free = U64(12) - width
        frequencies[at] = U64(1) << free
        starts[at] = ((value >> bits) & ((U64(1) << width) - U64(1))) << free
        at += U64(1)
    return at


@_jit
def _put_value(value, context, table, frequencies, starts, at):  # noqa: ANN001, ANN202
    """A bucketed number: the next position."""
    symbol, bits = _bucket(value)
    at = _put(symbol, context, table, frequencies, starts, at)
    return _put_plain(value, bits, frequencies, starts, at)


@_jit
def _sort(keys, num):  # noqa: ANN001, ANN202
    """Shell's sort: labels are mostly short, and numba's own sort takes seconds to compile."""
    gap = 1
    while gap < num // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for right in range(gap, num):
            key = keys[right]
            left = right
            while left >= gap and keys[left - gap] > key:
                keys[left] = keys[left - gap]
                left -= gap
            keys[left] = key
        gap //= 3


@_jit
def label_pieces(ids, counts, entries, targets, ranks, draws, tables, frequencies, starts, per_label):  # noqa: ANN001, ANN201
    """Frequency and start of every symbol, uint16 [S] each, and how many each label has; returns S.

    Counts of a label sum to `draws`. -1 when a label has a class twice. `tables` is a named tuple, see `blocks.py`.
    """
    keys = np.empty(max(1, entries.max()), np.uint64)
    draws = U64(draws)
    one, at, first = U64(1), U64(0), 0
    for label in range(entries.shape[0]):
        begin, others = at, 0
        flag, rest = U64(0), draws
        for entry in range(first, first + entries[label]):
            if ids[entry] == targets[label] and flag == U64(0):
                flag = one
                rest -= U64(counts[entry])
            else:
                keys[others] = (U64(ranks[ids[entry]]) << U64(16)) | U64(counts[entry])
                others += 1
        first += entries[label]
        _sort(keys, others)
        n = U64(entries[label])
        size, bits = _bucket(n - one)
        at = _put((size << one) + flag, U64(0), tables.starts, frequencies, starts, at)
        at = _put_plain(n - one, bits, frequencies, starts, at)
        if flag == one and n > one and draws > n:
            context = U64(tables.target_context) + min(size, U64(tables.target_cap))
            at = _put_value(draws - rest - one, context, tables.starts, frequencies, starts, at)
        place, left = U64(0), U64(others)
        for other in range(others):
            rank, count = keys[other] >> U64(16), keys[other] & U64(0xFFFF)
            if rank < place:
                return -1
            context = U64(tables.gap_contexts[place]) + min(left, U64(tables.gaps_left))
            at = _put_value(rank - place, context, tables.starts, frequencies, starts, at)
            place = rank + one
            if left > one and rest > left:
                context = U64(tables.count_contexts[rest - left]) + min(left, U64(tables.counts_left))
                at = _put_value(count - one, context, tables.starts, frequencies, starts, at)
            rest -= count
            left -= one
        per_label[label] = at - begin
    return np.int64(at)
