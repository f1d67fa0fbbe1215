"""Entries of several drawn labels of the same positions as one label each: no class twice, in the order of teachers."""

from functools import cache
from types import ModuleType

import numpy as np

__all__ = ["merge", "merge_rows"]

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


def merge_rows(ids: np.ndarray, masses: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of entries, `ids` int64 [N, W] (-1: none) and `masses` float32 [N, W], those of one class added up.

    Gives classes int64 [N, U], in the order in which they first occur and -1 where there are fewer, and their masses,
    there 0; U >= 1 is the most that a row has. They may lie where `ids` and `masses` lay. Compiled by numba where it is
    installed; the same numbers to the bit.
    """
    fast = _compiled()
    if fast is None:
        return _merge_rows(ids, masses, num_classes)
    kept = max(1, fast.merge_rows(ids, masses, np.full(num_classes, -1, np.int64)))
    return np.ascontiguousarray(ids[:, :kept]), np.ascontiguousarray(masses[:, :kept])


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


def _merge_rows(ids: np.ndarray, masses: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    named = ids >= 0
    offsets = np.concatenate([[0], np.cumsum(named.sum(1))])[None]
    alone = np.ones((1, len(ids)), np.float32)
    found, summed, ends = _merge(ids[named], masses[named], offsets, alone, num_classes)
    counts = np.diff(ends)
    place = np.arange(max(1, int(counts.max(initial=0)))) < counts[:, None]
    out_ids, out_masses = np.full(place.shape, -1, np.int64), np.zeros(place.shape, np.float32)
    out_ids[place], out_masses[place] = found, summed
    return out_ids, out_masses
