"""Entries of several labels of the same positions as one label each: no class twice, in the order of teachers."""

from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np

__all__ = ["merge", "merge_cells"]

Merged = tuple[np.ndarray, np.ndarray, np.ndarray]


def merge(ids: np.ndarray, weights: np.ndarray, offsets: np.ndarray, shares: np.ndarray, num_classes: int) -> Merged:
    """Classes int64 [E], weights float32 [E] and offsets int64 [N + 1] of N labels, from those of M teachers each.

    Label n of teacher m has the entries offsets[m, n] .. offsets[m, n + 1] - 1 of `ids` int64 and `weights` float32,
    and the share shares[m, n] float32. Compiled by numba where it is installed; the same numbers to the bit.
    """
    fast = _compiled()
    if fast is None:
        return _merge(ids, weights, offsets, shares, num_classes)
    out_ids, out_weights = np.empty_like(ids), np.empty_like(weights)
    out_offsets = np.zeros(offsets.shape[1], np.int64)
    last = np.full(num_classes, -1, np.int64)
    total = fast.merge(ids, weights, offsets, shares, last, out_ids, out_weights, out_offsets)
    return out_ids[:total], out_weights[:total], out_offsets


def merge_cells(
    ids: Sequence[np.ndarray], masses: Sequence[np.ndarray], tails: np.ndarray, shares: np.ndarray, num_classes: int
) -> Merged:
    """Classes int64 [N, U], their probabilities float32 [N, U] and what is left [N], of labels of M teachers.

    Teacher m names `ids[m]` int64 [N, W_m] (-1: none) with `masses[m]` float32, leaves `tails` float32 [M, N] to the
    others, and has the share `shares` float32 [M, N]. A row is divided by its sum. It has its classes in the order in
    which they first occur, then -1 with 0; U >= 1 is the most that one has. Compiled by numba where it is installed;
    the same classes, and the same numbers but for rounding.
    """
    fast = _compiled()
    if fast is None:
        return _merge_cells(ids, masses, tails, shares, num_classes)
    rows, width = len(ids[0]), max(1, sum(part.shape[1] for part in ids))
    every, (probs, tail) = np.empty(rows * width, np.int64), (np.empty(n, np.float32) for n in (rows * width, rows))
    # Whatever the caller's strides, the loop is compiled for one kind of array.
    named, given = (tuple(np.ascontiguousarray(part) for part in parts) for parts in (ids, masses))
    rest, weights = np.ascontiguousarray(tails), np.ascontiguousarray(shares)
    # Eight and more for each entry, so that a class seldom finds its slot taken.
    slots = np.full(1 << (8 * width).bit_length(), -1)
    most = fast.merge_cells(named, given, rest, weights, slots, every, probs, tail)
    every, probs = (flat[: rows * most].reshape(rows, most) for flat in (every, probs))
    return every, probs, tail


@cache
def _compiled() -> ModuleType | None:
    try:
        from kdcore.labels.mixing import merge_loop
    except ImportError:
        return None
    return merge_loop


def _merge(ids: np.ndarray, weights: np.ndarray, offsets: np.ndarray, shares: np.ndarray, num_classes: int) -> Merged:
    teachers, num_labels = shares.shape
    counts = np.diff(offsets, axis=1)
    label = np.repeat(np.tile(np.arange(num_labels), teachers), counts.ravel())
    scaled = weights * np.repeat(shares.ravel(), counts.ravel())
    # Label after label, in each the teachers in their order.
    order = np.argsort(label, kind="stable")
    place = label[order] * num_classes + ids[order]
    unique, first, inverse = np.unique(place, return_index=True, return_inverse=True)
    rank = np.empty(len(unique), np.int64)
    rank[np.argsort(first)] = np.arange(len(unique))
    kept = np.empty(len(unique), np.int64)
    kept[rank] = unique
    summed = np.zeros(len(unique), np.float32)
    np.add.at(summed, rank[inverse.reshape(-1)], scaled[order])
    entries = np.bincount(kept // num_classes, minlength=num_labels) if num_classes else np.zeros(num_labels, np.int64)
    return kept % max(1, num_classes), summed, np.concatenate([[0], np.cumsum(entries)]).astype(np.int64)


def _merge_cells(
    ids: Sequence[np.ndarray], masses: Sequence[np.ndarray], tails: np.ndarray, shares: np.ndarray, num_classes: int
) -> Merged:
    every = np.concatenate(ids, 1)
    scaled = np.concatenate([mass * share[:, None] for mass, share in zip(masses, shares, strict=True)], 1)
    named = every >= 0
    offsets = np.concatenate([[0], np.cumsum(named.sum(1))])[None]
    alone = np.ones((1, len(every)), np.float32)
    found, summed, ends = _merge(every[named], scaled[named], offsets, alone, num_classes)
    counts = np.diff(ends)
    place = np.arange(max(1, int(counts.max(initial=0)))) < counts[:, None]
    out_ids, out_probs = np.full(place.shape, -1, np.int64), np.zeros(place.shape, np.float32)
    out_ids[place], out_probs[place] = found, summed
    tail = (tails * shares).sum(0)
    total = out_probs.sum(1) + tail
    return out_ids, out_probs / total[:, None], tail / total
