"""Open a finished store and read soft labels from it, by row or by key, without copying shards into memory."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np

from kdcore.errors import CorruptShard, MissingLabels, StoreError
from kdcore.identity import compare_identity
from kdcore.labels import Codec, RowView, SoftLabels
from kdcore.labels.moments import LayerMoments, moments_of_json
from kdcore.labels.spans import positions_of
from kdcore.labels.views import Views, unpack_views
from kdcore.labels.views.spec import ViewSpec
from kdcore.store.index import Index, read_part
from kdcore.store.keys import KeyTable
from kdcore.store.manifest import Manifest, load_manifest
from kdcore.store.moments import FEATURE_MOMENTS
from kdcore.store.opening import check_sizes, open_index
from kdcore.store.order import share_of
from kdcore.store.schema import LABEL_SPANS, TOKEN_LOG_PROBS, VIEWS
from kdcore.store.shard import Shard
from kdcore.store.storage.parallel import in_order
from kdcore.store.storage.places import Location, Place, open_place
from kdcore.store.verify import check_digests
from kdcore.store.views import Columns, column_views, row_view

__all__ = ["LabelStore", "Verify", "open_store"]

Verify = Literal["quick", "full"]
# Mapped shards kept open at once; each costs one file descriptor.
_OPEN_SHARDS = 256
Indices = Sequence[int] | np.ndarray
"""Integers, one per slice."""


def open_store(
    path: Location, identity: Mapping[str, Any] | None = None, verify: Verify = "quick", ignore: Sequence[str] = ()
) -> "LabelStore":
    """Open a finished store. IncompleteStore without a manifest, CorruptShard for damage, IdentityMismatch for another.

    `quick` checks the digests of manifest and index, and the size of every shard; a shard's footer, schema, counts
    and offsets are checked when it is first touched. `full` reads every byte and compares digests too. `identity` is
    the one asked for; package versions and the paths in `ignore` may differ.
    """
    if verify not in ("quick", "full"):
        raise StoreError(f"verify must be 'quick' or 'full', got {verify!r}")
    place = open_place(path)
    manifest = load_manifest(place)
    if identity is not None:
        compare_identity(manifest.identity, identity, ("versions", *ignore), what=f"the label store {place}")
    check_sizes(place, manifest)
    if verify == "full":
        check_digests(place, manifest)
    return LabelStore(place, manifest)


class LabelStore:
    """Random access to the soft labels of a store; rows are numbered 0 .. num_rows - 1 in manifest order."""

    notes: tuple[str, ...] = ()
    """What a person should know before training from it; a mix may have some."""
    changes = False
    """Whether the label of a sample differs from epoch to epoch; of a mix it may."""
    codecs: tuple[Codec, ...] = ()
    """Of several teachers whose labels are kept apart, as a mix may have them."""

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.place, self.path = place, place.url
        self.manifest = manifest
        self.codec: Codec = manifest.make_codec()
        self._schema = manifest.schema(self.codec)
        self._open: OrderedDict[int, tuple[Shard, list[Columns]]] = OrderedDict()
        self._lock = threading.Lock()  # of what is open and of the gates, held for a look
        self._gates: dict[int, threading.Lock] = {}
        self._index_file, self._rows = open_index(place, manifest, self.codec)

    @property
    def _index(self) -> Index:
        """The index, while its file is as it was."""
        self._index_file.check()
        return self._rows

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.place,)

    def __repr__(self) -> str:
        return f"LabelStore({self.path!r}, {self.kind}, rows={self.num_rows}, labels={self.num_labels})"

    @property
    def identity(self) -> dict[str, Any]:
        """Whose labels these are, of what input."""
        return self.manifest.identity

    @property
    def described(self) -> str:
        """Its path; of a mix, what it is of."""
        return self.path

    @property
    def kind(self) -> str:
        """`text` or `image`."""
        return self.manifest.kind

    @property
    def elsewhere(self) -> bool:
        """Whether its shards lie on another machine, from which `bring` copies them."""
        return self.place.remote

    @property
    def num_classes(self) -> int:
        """V; 0 where the labels are not distributions."""
        return self.codec.num_classes

    @cached_property
    def moments(self) -> tuple[LayerMoments, ...]:
        """Mean and spread of the store's features by layer, alone in a tuple; of none where nobody gathered them."""
        return (moments_of_json(self.manifest.extra.get(FEATURE_MOMENTS, {}), self.path),)

    @property
    def num_rows(self) -> int:
        """Samples, each once."""
        return len(self._index.row)

    @property
    def num_labels(self) -> int:
        """Soft labels of all rows, each row once."""
        return self.manifest.num_labels

    def keys(self) -> np.ndarray:
        """The key (16 bytes) of each row, an object array of `bytes`; see `rows_of` for looking many up."""
        raw = self._index.keys.tobytes()
        keys = np.empty(self.num_rows, dtype=object)
        keys[:] = [raw[start : start + 16] for start in range(0, len(raw), 16)]
        return keys

    def key_words(self) -> np.ndarray:
        """The keys of all rows, 16 bytes each, uint64 [rows, 2]: a view of the index."""
        return self._index.keys

    def key(self, row: int) -> bytes:
        """The key (16 bytes) of a row."""
        return self._index.keys[row].tobytes()

    def occurrences(self) -> np.ndarray:
        """How often each row's sample occurs in the input, int64 [rows]."""
        return self._index.occurrences.astype(np.int64)

    def num_tokens_per_row(self) -> np.ndarray:
        """Tokens T of each row, int64 [rows]; zeros in an image store."""
        return self._index.lengths.astype(np.int64)

    def num_labels_per_row(self) -> np.ndarray:
        """Labels of each row, int64 [rows]: of a text T - 1 or, with a mask, fewer; of an image one a view, or one."""
        return self._index.labels_of(slice(None), self.kind)

    def targets(self) -> np.ndarray:
        """The hard label of each image, int64 [rows]; -1 where there is none (and in a text store)."""
        return self._index.targets.astype(np.int64)

    def bytes_per_label(self) -> dict[str, float]:
        """Bytes of each column, and of the whole files (`total`), over the number of labels."""
        labels = max(1, self.num_labels)
        columns = {name: size / labels for name, size in self.manifest.columns.items()}
        return {**columns, "total": self.manifest.num_bytes / labels}

    def rows_for(
        self, rank: int, world: int, worker: int = 0, workers: int = 1, seed: int | None = None, epoch: int = 0
    ) -> np.ndarray:
        """The rows of one worker of one rank, int64: disjoint, and complete over `world` ranks of `workers` each.

        In manifest order without a seed, else in an order that is a function of (seed, epoch) alone. A rank's rows,
        all its workers together, do not depend on `workers`. StoreError for a rank or worker that cannot be.
        """
        return share_of(self.num_rows, rank, world, worker, workers, seed, epoch)

    @cached_property
    def _table(self) -> KeyTable:
        return KeyTable(self._index.keys)

    def rows_of(self, keys: Iterable[bytes]) -> np.ndarray:
        """The row of each key, int64; MissingLabels if the store has none for one of them."""
        listed = list(keys)
        rows = self._table.find_all(listed)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            raise MissingLabels(
                f"sample {listed[int(missing[0])].hex()} has no label in {self.path} ({len(missing)} of {len(listed)} "
                f"have none): the data changed since it was labelled. Set the data back, or label into a new path "
                f"(labels.path)"
            )
        return rows

    def row_of(self, key: bytes) -> int:
        """The row of a sample's key; MissingLabels if the store has none."""
        return int(self.rows_of([key])[0])

    def __contains__(self, key: bytes) -> bool:
        return self._table.find(key) >= 0

    def tokens(self, row: int) -> np.ndarray:
        """Token ids of a text row, int64 [T]."""
        return self._values(row, "tokens").astype(np.int64)

    def tokens_of(self, rows: Indices) -> list[np.ndarray]:
        """Token ids of each text row, views of the mapped file, int [T]."""
        found = []
        for columns, inner in self._where(np.asarray(rows, np.int64)):
            offsets, values = columns["tokens"]
            found.append(values[offsets[inner] : offsets[inner + 1]])
        return found

    @property
    def masked(self) -> bool:
        """Whether only some tokens of a text are labelled."""
        return self.manifest.masked

    def label_positions(self, row: int) -> np.ndarray:
        """The position of each label of a text row, int64 [N], rising: 0 .. T - 2 unless the store has a mask."""
        if not self.masked:
            return np.arange(self._num_labels(row))
        return positions_of(self._values(row, LABEL_SPANS))

    @cached_property
    def view_spec(self) -> ViewSpec | None:
        """What the views of the images are; None where a label is of the image as it is."""
        views = self.manifest.views
        return None if views is None else ViewSpec.from_json(views, self.path)

    def views_of(self, rows: Indices, numbers: Indices | None = None) -> Views:
        """The parameters of view numbers[i] of rows[i], or of all views of the rows; label n of a row is of view n.

        StoreError in a store without views, LabelError for a view that there is not.
        """
        if self.view_spec is None:
            raise StoreError(f"{self.path} was labelled without views (data.views): its labels are of whole images")
        offsets_of = [(*columns[VIEWS], inner) for columns, inner in self._where(np.asarray(rows, np.int64))]
        packed = [values[offsets[inner] : offsets[inner + 1]] for offsets, values, inner in offsets_of]
        lengths = np.array([part.size for part in packed], np.int64)
        flat = np.concatenate([np.empty(0, np.uint8), *packed])
        return unpack_views(self.view_spec.policy, flat, lengths, None if numbers is None else np.asarray(numbers))

    def token_log_probs(self, row: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The teacher's log-probability of the actual next tokens, float32 [stop - start]."""
        stop = self._stop(row, stop)
        return self._values(row, TOKEN_LOG_PROBS)[start:stop].astype(np.float32)

    def shards_of(self, rows: Indices) -> np.ndarray:
        """The position in the manifest of the shard that holds each row, int64."""
        return self._index.shard[np.asarray(rows)].astype(np.int64)

    def name(self, row: int) -> str:
        """The name of the (first) sample of a row."""
        shard, _ = self._opened(int(self._index.shard[row]))
        return shard.batches[int(self._index.batch[row])].column("name")[int(self._index.row[row])].as_py()

    def labels(self, row: int, start: int = 0, stop: int | None = None) -> SoftLabels:
        """Labels start .. stop - 1 of a row. One at position j of a text is the distribution after tokens[: j + 1]."""
        return self.labels_of([row], [start], [self._stop(row, stop)])

    def labels_for_key(self, key: bytes) -> SoftLabels:
        """All labels of a sample; MissingLabels if the store has none."""
        return self.labels(self.row_of(key))

    def labels_of(self, rows: Indices, starts: Indices, stops: Indices, epochs: Indices | None = None) -> SoftLabels:
        """Labels of several row slices, one after the other, decoded at once. IndexError outside of a row.

        They are the same in all `epochs`, which are for a mix to know.
        """
        chosen, begins, ends = (np.asarray(each, np.int64) for each in (rows, starts, stops))
        # Rows that are not there have no labels: 0 .. -1.
        inside = (chosen >= 0) & (chosen < self.num_rows)
        counts = np.where(inside, self._index.labels_of(np.where(inside, chosen, 0), self.kind), -1)
        bad = np.flatnonzero((begins < 0) | (begins > ends) | (ends > counts))
        if len(bad):
            row, start, stop = (int(each[bad[0]]) for each in (chosen, begins, ends))
            raise IndexError(f"labels [{start}, {stop}) of row {row} are not in the store {self!r}")
        views = [
            row_view(columns, inner, self._codec_columns, count)
            for (columns, inner), count in zip(self._where(chosen), counts.tolist(), strict=True)
        ]
        return self.codec.decode(views, begins.tolist(), ends.tolist())

    def bring(self, rows: Indices) -> None:
        """Opens the shards that rows are in, several at once; what lies elsewhere is copied into the cache for it.

        Reading a row does so too: this is for rows that are needed soon, of more than one shard.
        """
        numbers = np.unique(self._index.shard[np.asarray(rows)]).tolist()
        missing = [number for number in numbers if self._open_already(number) is None]
        for _ in in_order(self._opened, missing, min(self.place.threads, len(missing))):
            pass

    def row_view(self, row: int) -> RowView:
        """The stored columns of a row, as views of the mapped file."""
        columns, inner = self._columns(row), int(self._index.row[row])
        return row_view(columns, inner, self._codec_columns, self._num_labels(row))

    @cached_property
    def _codec_columns(self) -> list[str]:
        return [entry.name for entry in self.codec.fields()]

    def _stop(self, row: int, stop: int | None) -> int:
        return self._num_labels(row) if stop is None else stop

    def _num_labels(self, row: int) -> int:
        return int(self._index.labels_of(row, self.kind))

    def _values(self, row: int, column: str) -> np.ndarray:
        """All values of a column of a row; a view."""
        offsets, values = self._columns(row)[column]
        inner = int(self._index.row[row])
        return values[offsets[inner] : offsets[inner + 1]]

    def _columns(self, row: int) -> Columns:
        return self._where(np.array([row]))[0][0]

    def _where(self, rows: np.ndarray) -> list[tuple[Columns, int]]:
        """The columns that each row is in, and its place there; a shard is looked at once, whatever its rows."""
        index = self._index
        opened: dict[int, list[Columns]] = {}
        found: list[tuple[Columns, int]] = []
        places = zip(index.shard[rows].tolist(), index.batch[rows].tolist(), index.row[rows].tolist(), strict=True)
        for shard, batch, inner in places:
            if shard not in opened:
                opened[shard] = self._opened(shard)[1]
            found.append((opened[shard][batch], inner))
        return found

    def _opened(self, number: int) -> tuple[Shard, list[Columns]]:
        """A shard, mapped, with views of its columns; the shards used last stay open."""
        found = self._open_already(number)
        if found is None:
            with self._gate(number):
                # Whoever held the lock before may have opened it.
                found = self._open_already(number) or self._open_now(number)
        found[0].source.check()
        return found

    def _gate(self, number: int) -> threading.Lock:
        """The lock of one shard: a download of one does not stop the readers of the others."""
        with self._lock:
            return self._gates.setdefault(number, threading.Lock())

    def _open_already(self, number: int) -> tuple[Shard, list[Columns]] | None:
        with self._lock:
            found = self._open.get(number)
            if found is not None:
                self._open.move_to_end(number)
            return found

    def _open_now(self, number: int) -> tuple[Shard, list[Columns]]:
        shard = self._checked(number)
        found = shard, [column_views(batch) for batch in shard.batches]
        with self._lock:
            self._open[number] = found
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        return found

    def _checked(self, number: int) -> Shard:
        """A shard that holds what the index says."""
        shard = Shard(self.place, self.manifest.shards[number], self._schema)
        contradiction = read_part(shard, self.codec).differs(self._index.part(number))
        if contradiction is not None:
            raise CorruptShard(
                f"{shard.path} holds other {contradiction} than the store's index says: shards were swapped or "
                f"replaced; `kd store verify {self.path}` says which. Restore them from a copy"
            )
        return shard
