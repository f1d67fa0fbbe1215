"""Open a finished store and read soft labels from it, by row or by key, without copying shards into memory."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kdcore.errors import MissingLabels, StoreError
from kdcore.identity import compare_identity
from kdcore.labels import Codec, SoftLabels, codec_from_spec
from kdcore.store.index import Index, build_index, read_part
from kdcore.store.manifest import Manifest, load_manifest
from kdcore.store.schema import TOKEN_LOG_PROBS, store_schema
from kdcore.store.shard import Shard, list_offsets, list_values
from kdcore.store.verify import check_digest

__all__ = ["LabelStore", "Verify", "open_store"]

Verify = Literal["quick", "full"]
# Mapped shards kept open at once; each costs one file descriptor.
_OPEN_SHARDS = 256
Indices = Sequence[int] | np.ndarray
"""Integers, one per slice."""
_Columns = dict[str, tuple[np.ndarray, np.ndarray]]


def open_store(
    path: str | Path, identity: Mapping[str, Any] | None = None, verify: Verify = "quick", ignore: Sequence[str] = ()
) -> "LabelStore":
    """Open a finished store. IncompleteStore without a manifest, CorruptShard for damage, IdentityMismatch for another.

    `quick` checks the manifest's digest, the size, footer, schema and counts of every shard; `full` reads every byte
    and compares digests too. `identity` is the one asked for; package versions and the paths in `ignore` may differ.
    """
    if verify not in ("quick", "full"):
        raise StoreError(f"verify must be 'quick' or 'full', got {verify!r}")
    store = Path(path)
    manifest = load_manifest(store)
    if identity is not None:
        compare_identity(manifest.identity, identity, ("versions", *ignore), what=f"the label store {store}")
    if verify == "full":
        for receipt in manifest.shards:
            check_digest(store, receipt)
    return LabelStore(store, manifest)


class LabelStore:
    """Random access to the soft labels of a store; rows are numbered 0 .. num_rows - 1 in manifest order."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.codec: Codec = codec_from_spec(manifest.codec)
        self._schema = store_schema(manifest.kind, self.codec, manifest.identity.get("vocabulary"))
        self._widths = self.codec.widths()
        self._open: OrderedDict[int, tuple[Shard, list[_Columns]]] = OrderedDict()
        self._index: Index = build_index([read_part(self._shard(n), self._widths) for n in range(len(manifest.shards))])

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (str(self.path),)

    def __repr__(self) -> str:
        return f"LabelStore({str(self.path)!r}, {self.kind}, rows={self.num_rows}, labels={self.num_labels})"

    @property
    def identity(self) -> dict[str, Any]:
        """Whose labels these are, of what input."""
        return self.manifest.identity

    @property
    def kind(self) -> str:
        """`text` or `image`."""
        return self.manifest.kind

    @property
    def num_classes(self) -> int:
        """V."""
        return self.codec.num_classes

    @property
    def num_rows(self) -> int:
        """Samples, each once."""
        return len(self._index.row)

    @property
    def num_labels(self) -> int:
        """Soft labels of all rows, each row once."""
        return self.manifest.num_labels

    def keys(self) -> np.ndarray:
        """The key (16 bytes) of each row, an object array of `bytes`."""
        return np.array(list(self._row_of), dtype=object)

    def occurrences(self) -> np.ndarray:
        """How often each row's sample occurs in the input, int64 [rows]."""
        return self._index.occurrences

    def num_tokens_per_row(self) -> np.ndarray:
        """Tokens T of each row, int64 [rows]; zeros in an image store."""
        return self._index.lengths

    def num_labels_per_row(self) -> np.ndarray:
        """Labels of each row, int64 [rows]: T - 1 of a text, 1 of an image."""
        return np.maximum(self._index.lengths - 1, 0) if self.kind == "text" else np.ones(self.num_rows, np.int64)

    def targets(self) -> np.ndarray:
        """The hard label of each image, int64 [rows]; -1 where there is none (and in a text store)."""
        return self._index.targets

    def bytes_per_label(self) -> dict[str, float]:
        """Bytes of each column, and of the whole files (`total`), over the number of labels."""
        labels = max(1, self.num_labels)
        columns = {name: size / labels for name, size in self._index.column_bytes.items()}
        return {**columns, "total": self.manifest.num_bytes / labels}

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        raw = self._index.keys.tobytes()
        return {raw[start : start + 16]: start // 16 for start in range(0, len(raw), 16)}

    def row_of(self, key: bytes) -> int:
        """The row of a sample's key; MissingLabels if the store has none."""
        try:
            return self._row_of[key]
        except KeyError:
            raise MissingLabels(
                f"sample {key.hex()} has no label in {self.path}: the data changed since it was labelled. Set the data "
                f"back, or label into a new path (labels.path)"
            ) from None

    def __contains__(self, key: bytes) -> bool:
        return key in self._row_of

    def tokens(self, row: int) -> np.ndarray:
        """Token ids of a text row, int64 [T]."""
        return self._slice(row, "tokens", 0, int(self._index.lengths[row])).astype(np.int64)

    def token_log_probs(self, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The teacher's log-probability of the actual next tokens, float32 [stop - start]."""
        stop = self._stop(row, stop)
        return self._slice(row, TOKEN_LOG_PROBS, start, stop).astype(np.float32)

    def name(self, row: int) -> str:
        """The name of the (first) sample of a row."""
        shard, _ = self._opened(row)
        return shard.batches[int(self._index.batch[row])].column("name")[int(self._index.row[row])].as_py()

    def labels(self, row: int, start: int = 0, stop: int | None = None) -> SoftLabels:
        """Labels start .. stop - 1 of a row. Label j of a text is the distribution after tokens[: j + 1]."""
        return self.labels_of([row], [start], [self._stop(row, stop)])

    def labels_for_key(self, key: bytes) -> SoftLabels:
        """All labels of a sample; MissingLabels if the store has none."""
        return self.labels(self.row_of(key))

    def labels_of(self, rows: Indices, starts: Indices, stops: Indices) -> SoftLabels:
        """Labels of several row slices, one after the other, decoded at once."""
        count = 0
        parts: dict[str, list[np.ndarray]] = {column: [] for column in self._widths}
        for row, start, stop in zip(rows, starts, stops, strict=True):
            self._check_range(row, start, stop)
            for column, width in self._widths.items():
                parts[column].append(self._slice(row, column, start * width, stop * width))
            count += stop - start
        empty = {entry.name: entry.type.value_type.to_pandas_dtype() for entry in self.codec.fields()}
        joined = {
            column: np.concatenate(values) if values else np.empty(0, empty[column]) for column, values in parts.items()
        }
        return self.codec.decode(joined, int(count))

    def _stop(self, row: int, stop: int | None) -> int:
        return self._num_labels(row) if stop is None else stop

    def _num_labels(self, row: int) -> int:
        return max(0, int(self._index.lengths[row]) - 1) if self.kind == "text" else 1

    def _check_range(self, row: int, start: int, stop: int) -> None:
        if not (0 <= row < self.num_rows and 0 <= start <= stop <= self._num_labels(row)):
            raise IndexError(f"labels [{start}, {stop}) of row {row} are not in the store {self!r}")

    def _slice(self, row: int, column: str, start: int, stop: int) -> np.ndarray:
        """Values of a column of a row, counted from the row's first; a view."""
        offsets, values = self._columns(row)[column]
        first = int(offsets[self._index.row[row]])
        return values[first + start : first + stop]

    def _columns(self, row: int) -> _Columns:
        return self._opened(row)[1][int(self._index.batch[row])]

    def _opened(self, row: int) -> tuple[Shard, list[_Columns]]:
        """The row's shard, mapped, with views of its columns; the shards used last stay open."""
        number = int(self._index.shard[row])
        if number not in self._open:
            shard = self._shard(number)
            self._open[number] = shard, [_views(batch, self._list_columns) for batch in shard.batches]
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    @cached_property
    def _list_columns(self) -> list[str]:
        text = ["tokens", TOKEN_LOG_PROBS] if self.kind == "text" else []
        return [*self._widths, *text]

    def _shard(self, number: int) -> Shard:
        return Shard(self.path, self.manifest.shards[number], self._schema)


def _views(batch: Any, columns: Sequence[str]) -> _Columns:
    return {column: (list_offsets(batch, column), list_values(batch, column)) for column in columns}
