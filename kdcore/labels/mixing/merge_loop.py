"""The compiled loops of `merge.py`: a table says where each class was last put, so that nothing is sorted."""

from kdcore.labels.coder.jit import jit

__all__ = ["merge", "merge_rows"]


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
def merge_rows(ids, masses, last):  # noqa: ANN001, ANN201  numba infers the types
    """See `merge.merge_rows`; `last` int64 [V] is -1 throughout. Works in place; returns the most that a row has."""
    rows, width = ids.shape
    widest = 0
    for row in range(rows):
        begin = row * width
        used = 0
        for column in range(width):
            one = ids[row, column]
            if one < 0:
                continue
            place = last[one] - begin
            if place >= 0:
                masses[row, place] += masses[row, column]
            else:
                last[one] = begin + used
                ids[row, used] = one
                masses[row, used] = masses[row, column]
                used += 1
        for column in range(used, width):
            ids[row, column] = -1
            masses[row, column] = 0
        widest = max(widest, used)
    return widest
