"""Which labels a text has where not every token is trained: positions, and runs of consecutive ones, as stored."""

import numpy as np

__all__ = ["count_positions", "positions_of", "spans_of"]


def spans_of(positions: np.ndarray) -> np.ndarray:
    """Runs (first, last) int32 [S, 2] of rising label positions int [N]; both ends are in the run."""
    positions = np.asarray(positions, np.int64)
    breaks = np.flatnonzero(np.diff(positions) != 1)
    firsts, lasts = np.append(0, breaks + 1), np.append(breaks, len(positions) - 1)
    if not len(positions):
        return np.empty((0, 2), np.int32)
    return np.stack([positions[firsts], positions[lasts]], axis=1).astype(np.int32)


def positions_of(spans: np.ndarray) -> np.ndarray:
    """The positions int64 [N] of runs int [S, 2], one after the other."""
    spans = np.asarray(spans, np.int64).reshape(-1, 2)
    counts = spans[:, 1] - spans[:, 0] + 1
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(spans[:, 0] - (ends - counts), counts)


def count_positions(spans: np.ndarray | None) -> int:
    """How many positions runs int [S, 2] have; 0 for None."""
    return 0 if spans is None else int((spans[:, 1].astype(np.int64) - spans[:, 0] + 1).sum())
