"""One shard, mapped: its record batches, and numpy views of their columns."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard, IdentityMismatch
from kdcore.identity import canonical_json
from kdcore.store.layout import shard_file
from kdcore.store.schema import count_labels, schema_metadata
from kdcore.store.writer import Receipt

__all__ = ["Shard"]


class Shard:
    """A mapped shard. Opening checks its size, footer, schema, counts and list offsets; not its digest."""

    def __init__(self, store: Path, receipt: Receipt, schema: pa.Schema) -> None:
        self.path = shard_file(store, receipt.shard)
        self.receipt = receipt
        self._check_size()
        self.batches = self._open(schema)
        rows, labels = sum(batch.num_rows for batch in self.batches), sum(map(count_labels, self.batches))
        if (rows, labels) != (receipt.rows, receipt.labels):
            raise CorruptShard(
                f"{self.path} must hold {receipt.rows} rows and {receipt.labels} labels, it holds {rows} and {labels}"
            )

    def _check_size(self) -> None:
        if not self.path.is_file():
            raise CorruptShard(
                f"shard {self.path} is missing: restore it from a copy, or remove {self._manifest} and rerun"
            )
        size = self.path.stat().st_size
        if size != self.receipt.bytes:
            raise CorruptShard(
                f"shard {self.path} must have {self.receipt.bytes} bytes, it has {size}: restore it from a copy, or "
                f"remove {self._manifest} and label its unit again"
            )

    @property
    def _manifest(self) -> Path:
        return self.path.parent.parent / "manifest.json"

    def _open(self, schema: pa.Schema) -> list[pa.RecordBatch]:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            self._check_schema(reader.schema, schema)
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()
        except (pa.ArrowException, OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CorruptShard(f"shard {self.path} is damaged: {error}") from error
        for batch in batches:
            self._check_batch(batch)
        return batches

    def _check_schema(self, found: pa.Schema, wanted: pa.Schema) -> None:
        ours, theirs = schema_metadata(wanted), schema_metadata(found)
        if ours != theirs:
            raise IdentityMismatch(
                f"{self.path} says it holds {canonical_json(theirs)}, its manifest says {canonical_json(ours)}: "
                f"files of another store were copied here"
            )
        if not found.equals(wanted, check_metadata=False):
            raise CorruptShard(
                f"{self.path} must have the columns {wanted.names}, typed as its codec says; got {found}"
            )

    def _check_batch(self, batch: pa.RecordBatch) -> None:
        """Offsets that rise within the values, and no nulls, so that every later slice is within bounds."""
        for column, entry in zip(batch.columns, batch.schema, strict=True):
            if column.null_count and entry.name != "target":
                raise CorruptShard(f"{self.path}: column '{entry.name}' has nulls")
            if pa.types.is_list(entry.type):
                offsets = list_offsets(batch, entry.name)
                falls = bool((np.diff(offsets) < 0).any())
                if len(offsets) and (falls or offsets[0] < 0 or offsets[-1] > len(column.values)):
                    raise CorruptShard(f"{self.path}: offsets of column '{entry.name}' are not valid")

    def keys(self) -> np.ndarray:
        """Keys [rows, 2] uint64 (the 16 bytes of each), a copy."""
        parts = [_key_words(batch) for batch in self.batches]
        return np.concatenate(parts) if parts else np.empty((0, 2), np.uint64)


def list_offsets(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """Offsets [rows + 1] int32 of a list column, a view."""
    return batch.column(column).offsets.to_numpy()


def list_values(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """All values of a list column, a view."""
    return batch.column(column).values.to_numpy(zero_copy_only=True)


def _key_words(batch: pa.RecordBatch) -> np.ndarray:
    column = batch.column("key")
    data = column.buffers()[1]
    words = np.frombuffer(data, np.uint64, count=2 * batch.num_rows) if batch.num_rows else np.empty(0, np.uint64)
    return words.reshape(-1, 2).copy()
