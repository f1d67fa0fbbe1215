"""Where each row of a store lies: one Arrow file of its own, so that a store opens without opening its shards."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard
from kdcore.identity import KEY_BYTES
from kdcore.labels import Codec
from kdcore.store.columns import key_words
from kdcore.store.part import PartBuilder, ShardPart
from kdcore.store.schema import packed_metadata, views_of_schema
from kdcore.store.shard import Shard, open_batches
from kdcore.store.storage.place import Source
from kdcore.store.writer import Receipt

__all__ = ["Index", "build_index", "index_batch", "index_schema", "load_index", "read_part"]


@dataclass(frozen=True)
class Index:
    """Arrays over all rows, in manifest order: views of the index file.

    `keys` uint64 [R, 2] (the 16 bytes), `lengths` in tokens (0 for images), `targets` -1 where there is none;
    `first` int64 [shards + 1]: the rows of shard n are first[n] .. first[n + 1] - 1. `labels` is None where a text has
    one label fewer than tokens, and an image `per_image`.
    """

    keys: np.ndarray
    occurrences: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    shard: np.ndarray
    batch: np.ndarray
    row: np.ndarray
    first: np.ndarray
    labels: np.ndarray | None = None
    per_image: int = 1

    def part(self, number: int) -> ShardPart:
        """The rows of one shard."""
        rows = slice(int(self.first[number]), int(self.first[number + 1]))
        return ShardPart(
            self.keys[rows],
            self.occurrences[rows],
            self.lengths[rows],
            self.targets[rows],
            self.batch[rows],
            self.row[rows],
            {},
            None if self.labels is None else self.labels[rows],
        )

    def labels_of(self, rows: int | slice | np.ndarray, kind: str) -> np.ndarray:
        """Labels of one row or of several, int64."""
        if self.labels is not None:
            return self.labels[rows].astype(np.int64)
        lengths = self.lengths[rows].astype(np.int64)
        return np.maximum(lengths - 1, 0) if kind == "text" else np.full_like(lengths, self.per_image)


def read_part(shard: Shard, codec: Codec) -> ShardPart:
    """The index of one shard; CorruptShard when a row's columns do not fit its number of labels."""
    builder = PartBuilder(shard.path, codec)
    for batch in shard.batches:
        builder.add(batch)
    return builder.part()


def build_index(parts: Iterable[ShardPart], rows: int, masked: bool) -> tuple[Index, dict[str, int]]:
    """Join the parts of all shards, in order, into arrays of `rows` rows; also the bytes of each column."""
    names = tuple(_columns(masked).values())
    keys, arrays = np.empty((rows, 2), np.uint64), {name: np.empty(rows, np.int32) for name in names}
    totals: dict[str, int] = {}
    first = [0]
    for number, part in enumerate(parts):
        here = slice(first[-1], first[-1] + len(part.row))
        keys[here], arrays["shard"][here] = part.keys, number
        for name in names if len(part.row) else ():
            if name != "shard":
                arrays[name][here] = getattr(part, name)
        for name, size in part.column_bytes.items():
            totals[name] = totals.get(name, 0) + size
        first.append(here.stop)
    return Index(keys=keys, **arrays, first=np.array(first, np.int64), per_image=1), totals


_COLUMNS = {"occurrences": "occurrences", "length": "lengths", "target": "targets", "shard": "shard", "batch": "batch"}
_COLUMNS["row"] = "row"


def _columns(masked: bool) -> dict[str, str]:
    """The arrays of an index by column; with the labels of each row where they do not follow from its tokens."""
    return {**_COLUMNS, "labels": "labels"} if masked else _COLUMNS


def index_schema(kind: str, codec: Codec, masked: bool, views: Mapping[str, Any] | None = None) -> pa.Schema:
    """Columns of an index; its metadata is that of the shards, so that files of two stores are not mixed."""
    columns = [pa.field("key", pa.binary(KEY_BYTES)), *(pa.field(name, pa.int32()) for name in _columns(masked))]
    return pa.schema(columns, metadata=packed_metadata(kind, codec, views, part="index"))


def index_batch(index: Index, schema: pa.Schema) -> pa.RecordBatch:
    """All rows as one batch, so that its columns can be mapped whole."""
    keys = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(KEY_BYTES), len(index.row), [None, pa.py_buffer(np.ascontiguousarray(index.keys))]
    )
    arrays = (getattr(index, name) for name in _columns(index.labels is not None).values())
    return pa.record_batch([keys, *map(pa.array, arrays)], schema=schema)


def load_index(source: Source, schema: pa.Schema, receipts: Sequence[Receipt], kind: str, where: str) -> Index:
    """The index of a file whose digest was compared; CorruptShard when it contradicts the manifest."""
    batches = open_batches(source.buffer, schema, where)
    if len(batches) != 1:
        raise CorruptShard(f"{where} must have one record batch, it has {len(batches)}")
    names = _columns("labels" in schema.names)
    arrays = {name: batches[0].column(column).to_numpy() for column, name in names.items()}
    first = np.zeros(len(receipts) + 1, np.int64)
    np.cumsum([receipt.rows for receipt in receipts], out=first[1:])
    views = views_of_schema(schema)
    per_image = 1 if views is None else views.per_image
    index = Index(keys=key_words(batches[0]), **arrays, first=first, per_image=per_image)
    expected = np.repeat(np.arange(len(receipts), dtype=np.int32), np.diff(first))
    if not np.array_equal(index.shard, expected):
        raise CorruptShard(f"{where} must have the rows of every shard in the manifest's order, it does not")
    labels = index.labels_of(slice(None), kind)
    found = np.bincount(index.shard, weights=labels, minlength=len(receipts)).astype(np.int64)
    wrong = np.flatnonzero(found != np.array([receipt.labels for receipt in receipts], np.int64))
    if len(wrong):
        receipt = receipts[int(wrong[0])]
        raise CorruptShard(
            f"{where} counts {found[wrong[0]]} labels in {receipt.shard}, the manifest {receipt.labels}: one is altered"
        )
    return index
