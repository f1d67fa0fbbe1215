"""Where each row of a store lies: a few arrays in memory, built once from footers and offsets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard
from kdcore.store.schema import TOKEN_LOG_PROBS
from kdcore.store.shard import Shard, list_offsets

__all__ = ["Index", "ShardPart", "build_index", "read_part"]


@dataclass(frozen=True)
class ShardPart:
    """What the index keeps of one shard; arrays over its rows."""

    keys: np.ndarray
    occurrences: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    batch: np.ndarray
    row: np.ndarray
    column_bytes: dict[str, int]


@dataclass(frozen=True)
class Index:
    """Arrays over all rows, in manifest order; `lengths` in tokens (0 for images), `targets` -1 where there is none."""

    keys: np.ndarray
    occurrences: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    shard: np.ndarray
    batch: np.ndarray
    row: np.ndarray
    column_bytes: dict[str, int]


def read_part(shard: Shard, widths: Mapping[str, int]) -> ShardPart:
    """The index of one shard; CorruptShard when a row's columns do not fit its number of labels."""
    lengths = [_lengths(batch) for batch in shard.batches]
    for batch, tokens in zip(shard.batches, lengths, strict=True):
        _check_widths(shard, batch, tokens, widths)
    return ShardPart(
        keys=shard.keys(),
        occurrences=_joined([batch.column("occurrences").to_numpy() for batch in shard.batches], np.int64),
        lengths=_joined(lengths, np.int64),
        targets=_joined([_targets(batch) for batch in shard.batches], np.int64),
        batch=_joined([np.full(batch.num_rows, number) for number, batch in enumerate(shard.batches)], np.int32),
        row=_joined([np.arange(batch.num_rows) for batch in shard.batches], np.int32),
        column_bytes={
            entry.name: sum(batch.column(entry.name).nbytes for batch in shard.batches)
            for entry in (shard.batches[0].schema if shard.batches else [])
        },
    )


def build_index(parts: Sequence[ShardPart]) -> Index:
    """Join the parts of all shards, in order."""
    totals: dict[str, int] = {}
    for part in parts:
        for name, size in part.column_bytes.items():
            totals[name] = totals.get(name, 0) + size
    sizes = [len(part.row) for part in parts]
    return Index(
        keys=np.concatenate([np.empty((0, 2), np.uint64), *(part.keys for part in parts)]),
        occurrences=_joined([part.occurrences for part in parts], np.int64),
        lengths=_joined([part.lengths for part in parts], np.int64),
        targets=_joined([part.targets for part in parts], np.int64),
        shard=np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        batch=_joined([part.batch for part in parts], np.int32),
        row=_joined([part.row for part in parts], np.int32),
        column_bytes=totals,
    )


def _joined(parts: Sequence[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts]).astype(dtype, copy=False)


def _lengths(batch: pa.RecordBatch) -> np.ndarray:
    if "tokens" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64)
    return np.diff(list_offsets(batch, "tokens")).astype(np.int64)


def _targets(batch: pa.RecordBatch) -> np.ndarray:
    if "target" not in batch.schema.names:
        return np.full(batch.num_rows, -1)
    return batch.column("target").fill_null(-1).to_numpy(zero_copy_only=False)


def _check_widths(shard: Shard, batch: pa.RecordBatch, tokens: np.ndarray, widths: Mapping[str, int]) -> None:
    text = "tokens" in batch.schema.names
    labels = np.maximum(tokens - 1, 0) if text else np.ones(batch.num_rows, np.int64)
    expected = {**widths, TOKEN_LOG_PROBS: 1} if text else dict(widths)
    for column, width in expected.items():
        wrong = np.flatnonzero(np.diff(list_offsets(batch, column)) != labels * width)
        if len(wrong):
            raise CorruptShard(
                f"{shard.path}: column '{column}' must hold {width} values per label, row {int(wrong[0])} does not"
            )
