"""Columns of a record batch as numpy arrays, and what must hold of them before they are sliced."""

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard

__all__ = ["check_batch", "key_words", "list_offsets", "list_values"]


def check_batch(batch: pa.RecordBatch, where: str) -> None:
    """Offsets that rise within the values, and no nulls, so that every later slice is within bounds."""
    for column, entry in zip(batch.columns, batch.schema, strict=True):
        if column.null_count and entry.name != "target":
            raise CorruptShard(f"{where}: column '{entry.name}' has nulls")
        if pa.types.is_list(entry.type):
            offsets = list_offsets(batch, entry.name)
            falls = bool((np.diff(offsets) < 0).any())
            if len(offsets) and (falls or offsets[0] < 0 or offsets[-1] > len(column.values)):
                raise CorruptShard(f"{where}: offsets of column '{entry.name}' are not valid")
            if column.values.null_count:
                raise CorruptShard(f"{where}: column '{entry.name}' has nulls in its lists")


def list_offsets(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """Offsets [rows + 1] int32 of a list column, a view."""
    return batch.column(column).offsets.to_numpy()


def list_values(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """All values of a list column, a view."""
    return batch.column(column).values.to_numpy(zero_copy_only=True)


def key_words(batch: pa.RecordBatch) -> np.ndarray:
    """The 16-byte keys of a batch, uint64 [rows, 2], a copy."""
    data = batch.column("key").buffers()[1]
    words = np.frombuffer(data, np.uint64, count=2 * batch.num_rows) if batch.num_rows else np.empty(0, np.uint64)
    return words.reshape(-1, 2).copy()
