"""What a picture of a store shows: entries, weights by rank and the teacher's surprise, of a few thousand labels."""

from dataclasses import dataclass

import numpy as np
import torch

from kdcore.errors import LabelError
from kdcore.labels import FeatureLabels, SpanCodec, SparseLabels
from kdcore.store import LabelStore, ranked

__all__ = ["StoreProfile", "profile_store"]

_LABELS, _ROWS, _RANKS = 20_000, 256, 1024
# Decoded values: V of each dense label, so that a large vocabulary takes fewer labels.
_ELEMENTS = 1 << 25


@dataclass(frozen=True)
class StoreProfile:
    """Arrays over N sampled labels. `entries` int64 [N] (None where all labels have the same number);

    `weights` float32 [N, R] by falling rank, zero where there is no entry; `log_probs` float32 [N] of the actual next
    tokens (text); `features` float32 [N, D] instead of the others.
    """

    labels: int
    entries: np.ndarray | None = None
    weights: np.ndarray | None = None
    log_probs: np.ndarray | None = None
    features: np.ndarray | None = None


def profile_store(store: LabelStore) -> StoreProfile:
    """Decode up to 20,000 labels of rows that are spread over the store; LabelError for spans: no classes."""
    if isinstance(store.codec, SpanCodec):
        raise LabelError(f"{store.path} holds spans, which have no classes to draw: see `kd store sample` and `stats`")
    rows, starts, stops = _slices(store)
    labels = store.labels_of(rows, starts, stops)
    if isinstance(labels, FeatureLabels):
        return StoreProfile(labels.num_labels, features=labels.features.numpy())
    entries = labels.offsets.diff().numpy() if isinstance(labels, SparseLabels) else None
    width = int(entries.max(initial=1)) if entries is not None else store.num_classes
    found = ranked(labels, min(_RANKS, width, store.num_classes))
    log_probs = None
    if store.kind == "text":
        parts = [store.token_log_probs(*span) for span in zip(rows, starts, stops, strict=True)]
        log_probs = np.concatenate([np.empty(0, np.float32), *parts])
    weights = torch.where(found.known, found.log_probs.exp(), 0.0).numpy()
    return StoreProfile(labels.num_labels, entries, weights, log_probs)


def _slices(store: LabelStore) -> tuple[list[int], list[int], list[int]]:
    """Of rows at equal distances, the same number of labels from the middle of each."""
    per_row = store.num_labels_per_row()
    width = max(1, store.num_classes or store.row_view(0).columns["features"].size)
    room = max(1, min(_LABELS, _ELEMENTS // width))
    count = min(_ROWS if store.kind == "text" else _LABELS, store.num_rows, room)
    rows = (np.arange(count) * store.num_rows // max(1, count)).tolist()
    share = max(1, room // max(1, count))
    taken = [min(share, int(per_row[row])) for row in rows]
    starts = [(int(per_row[row]) - size) // 2 for row, size in zip(rows, taken, strict=True)]
    return rows, starts, [start + size for start, size in zip(starts, taken, strict=True)]
