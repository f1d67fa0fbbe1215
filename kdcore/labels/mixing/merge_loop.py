"""The compiled loop of `merge`: a table says where each class was last put, so that nothing is sorted."""

from kdcore.labels.coder.jit import jit

__all__ = ["merge"]


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
