"""Which rows a worker reads, and in which order: a pure function of seed, epoch and the number of rows."""

import numpy as np

from kdcore.errors import StoreError
from kdcore.identity import mix_next

__all__ = ["share_of"]


def share_of(
    num_rows: int, rank: int, world: int, worker: int, workers: int, seed: int | None, epoch: int
) -> np.ndarray:
    """Rows int64 of worker `worker` of rank `rank`; see `LabelStore.rows_for`."""
    if not (0 <= rank < world and 0 <= worker < workers):
        raise StoreError(
            f"rows are for rank 0 .. world - 1 and worker 0 .. workers - 1, got rank {rank} of {world}, worker "
            f"{worker} of {workers}"
        )
    order = np.arange(num_rows, dtype=np.int64) if seed is None else _shuffled(num_rows, seed, epoch)
    return order[rank::world][worker::workers]


def _shuffled(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    """Row numbers sorted by a hash: the same on every machine and with every version of numpy."""
    start = mix_next(mix_next(np.array([seed & (1 << 64) - 1], np.uint64)) + np.uint64(epoch))
    return np.argsort(mix_next(np.arange(num_rows, dtype=np.uint64) + start), kind="stable")
