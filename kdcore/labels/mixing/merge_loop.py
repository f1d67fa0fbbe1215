"""The compiled loops of `merge.py`: a table says where each class was last put, so that nothing is sorted.

Of drawn labels it has a place for each class; of rows, whose width is known, a few for each entry, so that it stays in
the first cache whatever the vocabulary.
"""

import numpy as np

from kdcore.labels.coder.jit import jit

__all__ = ["merge", "merge_cells"]


@jit()
def merge(ids, weights, offsets, shares, last, out_ids, out_weights, out_offsets):  # noqa: ANN001, ANN201  numba infers the types
    """See `merge.merge`; `last` int64 [V] is -1 throughout. Returns the number of entries."""
    out = 0
    for label in range(shares.shape[1]):
        begin = out
        for teacher in range(shares.shape[0]):
            share = shares[teacher, label]
            for at in range(offsets[teacher, label], offsets[teacher, label + 1]):
                one = ids[at]
                place = last[one]
                if place >= begin:
                    out_weights[place] += weights[at] * share
                else:
                    last[one] = out
                    out_ids[out] = one
                    out_weights[out] = weights[at] * share
                    out += 1
        out_offsets[label + 1] = out
    return out


@jit()
def _slot(one, slots, ids, begin):  # noqa: ANN001, ANN202
    """The slot that says where a class lies in the row that begins at `begin`, or the free one where it is to be said.

    There are a power of two of `slots`; what they say of the rows before counts as free. Fibonacci hashing, and the
    next slot where one is taken.
    """
    last = np.uint64(slots.shape[0] - 1)
    slot = (np.uint64(one) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) & last
    while slots[slot] >= begin and ids[np.uint64(slots[slot])] != one:
        slot = (slot + np.uint64(1)) & last
    return slot


@jit()
def _widen(ids, probs, rows, width, wider):  # noqa: ANN001, ANN202
    """Makes room for `wider` classes in each of `rows` rows of `width`, and in the next one, which has them already."""
    for row in range(rows, np.int64(-1), -1):
        for column in range(wider - 1, -1, -1):
            to, at = np.uint64(row * wider + column), np.uint64(row * width + column)
            there = row == rows or column < width
            ids[to] = ids[at] if there else -1
            probs[to] = probs[at] if there else 0


@jit()
def merge_cells(ids, masses, tails, shares, slots, out_ids, out_probs, out_tail):  # noqa: ANN001, ANN201
    """See `merge.merge_cells`; `slots` int64 are -1 throughout, more than a row has entries.

    Returns U; the first N U of `out_ids` and `out_probs` [N W] are the rows. They are as wide as the widest so far: few
    are wider than all before, so that they seldom move. Unsigned, as numba lets a signed index count from the end.
    """
    begin, most = np.uint64(0), np.uint64(1)
    for row in range(np.uint64(out_tail.shape[0])):
        end, named, tail = begin, np.float32(0), np.float32(0)
        for teacher in range(len(ids)):
            theirs, mass, share = ids[teacher], masses[teacher], shares[teacher, row]
            tail += tails[teacher, row] * share
            for column in range(np.uint64(theirs.shape[1])):
                one = theirs[row, column]
                if one < 0:
                    continue
                given = mass[row, column] * share
                named += given
                slot = _slot(one, slots, out_ids, np.int64(begin))
                place = slots[slot]
                if place >= np.int64(begin):
                    out_probs[np.uint64(place)] += given
                else:
                    slots[slot] = end
                    out_ids[end] = one
                    out_probs[end] = given
                    end += np.uint64(1)
        total = named + tail
        out_tail[row] = tail / total
        for at in range(begin, end):
            out_probs[at] /= total
        if end - begin > most:
            _widen(out_ids, out_probs, np.int64(row), np.int64(most), np.int64(end - begin))
            most = end - begin
            end = (row + np.uint64(1)) * most
        begin = (row + np.uint64(1)) * most
        for at in range(end, begin):
            out_ids[at] = -1
            out_probs[at] = 0
    return np.int64(most)
