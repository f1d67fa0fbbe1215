"""What the index keeps of one shard: made with the shard, carried by its receipt, joined when a store is finished."""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard
from kdcore.identity import canonical_json, digest_bytes
from kdcore.labels import Codec
from kdcore.store.columns import key_words, labels_per_row, list_offsets
from kdcore.store.schema import LABEL_SPANS, TOKEN_LOG_PROBS

__all__ = ["PartBuilder", "ShardPart", "pack_part", "unpack_part"]

_ARRAYS = ("occurrences", "lengths", "targets", "batch", "row")
_COUNTED = (*_ARRAYS, "labels")
"""With the labels of each row, where they do not follow from its tokens."""
_KEY, _INT, _DIGEST = 16, 4, 32


@dataclass(frozen=True)
class ShardPart:
    """What the index keeps of one shard; arrays over its rows. `labels` is None where they follow from `lengths`."""

    keys: np.ndarray
    occurrences: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    batch: np.ndarray
    row: np.ndarray
    column_bytes: dict[str, int]
    labels: np.ndarray | None = None

    def differs(self, other: "ShardPart") -> str | None:
        """The first array that is not equal, by its name."""
        for entry in fields(self):
            left, right = getattr(self, entry.name), getattr(other, entry.name)
            if isinstance(left, np.ndarray) and not np.array_equal(left, right):
                return entry.name
        return None


class PartBuilder:
    """Gathers the part of a shard from its batches, in their order.

    With a `codec`, a row whose columns do not fit its number of labels is refused (CorruptShard).
    """

    def __init__(self, where: str, codec: Codec | None) -> None:
        self.where, self._codec = where, codec
        self._keys: list[np.ndarray] = [np.empty((0, 2), np.uint64)]
        self._arrays: dict[str, list[np.ndarray]] = {name: [] for name in _COUNTED}
        self._bytes: dict[str, int] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        """The next batch."""
        labels = labels_per_row(batch)
        if self._codec is not None:
            _check_fit(self.where, batch, labels, self._codec)
        number = len(self._keys) - 1
        self._keys.append(key_words(batch))
        found = {
            "occurrences": batch.column("occurrences").to_numpy(),
            "lengths": _lengths(batch),
            "targets": _targets(batch),
            "batch": np.full(batch.num_rows, number),
            "row": np.arange(batch.num_rows),
            "labels": labels,
        }
        for name, values in found.items():
            # A view would keep the batch, with all its labels, until the shard is written.
            self._arrays[name].append(values.astype(np.int32))
        for entry in batch.schema:
            self._bytes[entry.name] = self._bytes.get(entry.name, 0) + batch.column(entry.name).nbytes

    def part(self) -> ShardPart:
        """The part of all batches so far."""
        arrays = {name: _joined(self._arrays[name]) for name in _stored(self._bytes)}
        return ShardPart(keys=np.concatenate(self._keys), **arrays, column_bytes=dict(self._bytes))


def pack_part(part: ShardPart, shard_digest: str) -> str:
    """A part as text: a digest of it and of its shard's digest, then base64 of zlib.

    What is compressed: the columns' bytes as a line of JSON, the keys, then each array as little-endian int32.
    """
    arrays = [getattr(part, name).astype("<i4").tobytes() for name in _stored(part.column_bytes)]
    head = canonical_json(part.column_bytes).encode() + b"\n"
    content = b"".join([head, np.ascontiguousarray(part.keys).tobytes(), *arrays])
    return _seal(shard_digest, content) + base64.b64encode(zlib.compress(content)).decode()


def unpack_part(text: str, shard_digest: str, rows: int, where: str) -> ShardPart:
    """The part in a receipt's text; CorruptShard when it is damaged, or of another shard."""
    if not text:
        raise CorruptShard(f"{where} must carry its part of the index, as write_shard gives it; it has none")
    try:
        content = zlib.decompress(base64.b64decode(text[_DIGEST:], validate=True))
    except (ValueError, binascii.Error, zlib.error) as error:
        raise CorruptShard(f"`part` of {where} cannot be read: {error}") from error
    head, _, raw = content.partition(b"\n")
    altered = CorruptShard(f"`part` of {where} does not match its digest, its shard or its {rows} rows: it was altered")
    if text[:_DIGEST] != _seal(shard_digest, content):
        raise altered
    column_bytes = json.loads(head)
    names = _stored(column_bytes)
    if len(raw) != rows * (_KEY + _INT * len(names)):
        raise altered
    keys = np.frombuffer(raw, np.uint64, 2 * rows).reshape(-1, 2)
    values = np.frombuffer(raw, "<i4", offset=_KEY * rows).reshape(len(names), rows)
    return ShardPart(keys=keys, **dict(zip(names, values, strict=True)), column_bytes=column_bytes)


def _stored(column_bytes: Mapping[str, int]) -> Sequence[str]:
    """The arrays of a part of a shard with these columns."""
    return _COUNTED if LABEL_SPANS in column_bytes else _ARRAYS


def _seal(shard_digest: str, content: bytes) -> str:
    return digest_bytes(shard_digest.encode() + b"\n" + content)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int32), *parts]).astype(np.int32, copy=False)


def _lengths(batch: pa.RecordBatch) -> np.ndarray:
    if "tokens" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64)
    return np.diff(list_offsets(batch, "tokens")).astype(np.int64)


def _targets(batch: pa.RecordBatch) -> np.ndarray:
    if "target" not in batch.schema.names:
        return np.full(batch.num_rows, -1)
    return batch.column("target").fill_null(-1).to_numpy(zero_copy_only=False)


def _check_fit(where: str, batch: pa.RecordBatch, labels: np.ndarray, codec: Codec) -> None:
    lengths = {entry.name: np.diff(list_offsets(batch, entry.name)).astype(np.int64) for entry in codec.fields()}
    row = codec.misfit(lengths, labels)
    if row is not None:
        found = ", ".join(f"{count[row]} in '{name}'" for name, count in lengths.items())
        raise CorruptShard(f"{where}: the columns of row {row} cannot hold its {labels[row]} labels; there are {found}")
    if "tokens" in batch.schema.names:
        wrong = np.flatnonzero(np.diff(list_offsets(batch, TOKEN_LOG_PROBS)) != labels)
        if len(wrong):
            raise CorruptShard(
                f"{where}: column '{TOKEN_LOG_PROBS}' must hold one value per label, row {int(wrong[0])} does not"
            )
