"""One store of several that differ in their input alone; a sample that is in several is kept once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.errors import IdentityMismatch, StoreError
from kdcore.identity import differences, digest_input
from kdcore.store.derive.derive import (
    Derived,
    DerivedUnit,
    Making,
    Progress,
    SourceStore,
    copy_shard,
    derive_store,
    read_batches,
    samples_digest,
)
from kdcore.store.reader import LabelStore
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import Location
from kdcore.store.writer import Receipt, write_shard

__all__ = ["merge_stores"]

_NOTE = "shards of several stores; fidelity is that of the first store that measured it, statistics are each store's"
_MOST_OCCURRENCES = (1 << 31) - 1


def merge_stores(out: Location, stores: Sequence[Location], progress: Progress | None = None) -> Derived:
    """A new store `out` of the rows of `stores`, in their order; a killed run continues, a finished one is left alone.

    A shard none of whose samples is in another store is copied byte for byte. A sample that several stores have is kept
    where it is first, its occurrences added up. IdentityMismatch when the stores differ in more than input and package
    versions, CorruptShard for damage, StoreError when a key means two samples or `out` holds something else.
    """
    sources = _open(stores)
    rows = _Rows.of(sources)
    rows.check(sources)
    units = list(_units(sources, rows))
    first = sources[0].manifest
    identity = {**first.identity, "input": rows.input_digest()}
    how = {"how": "merge", "note": _NOTE, "sources": [source.record() for source in sources]}
    made = Making(how, lambda *_: _fidelity(sources), first.codec_state, sources[0].place)
    return derive_store(out, identity, units, made, progress)


def _open(stores: Sequence[Location]) -> list[SourceStore]:
    if len(stores) < 2:
        raise StoreError(f"a merge takes at least two stores, got {len(stores)}")
    sources: list[SourceStore] = []
    for store in stores:
        source = SourceStore(store)
        twin = next((other for other in sources if other.digest == source.digest), None)
        if twin is not None:
            raise StoreError(f"{source.place} is {twin.place} again (one manifest): give each store once")
        sources.append(source)
        _check_alike(sources[0], source)
    return sources


def _check_alike(first: SourceStore, other: SourceStore) -> None:
    """IdentityMismatch unless two stores differ in input and versions alone; a codec's spec has its tables' digest."""
    found = differences(first.manifest.identity, other.manifest.identity, ("input", "versions"))
    if not found:
        return
    lines = "\n".join(f"  {path}: {left!r} and {right!r}" for path, left, right in found)
    learnt = any(path in ("codec.coder", "codec.scales") for path, _, _ in found)
    remedy = " A codec learns its tables on a probe: begin the later store with the probe.json of the first one."
    raise IdentityMismatch(
        f"stores are merged only if teacher, tokenizer, numerics and codec are the same, but {first.place} and "
        f"{other.place} differ in:\n{lines}\nLabel one of them anew with the settings of the other.{remedy * learnt}"
    )


@dataclass(frozen=True)
class _Rows:
    """All rows of all stores: keys, occurrences to be, whether a row is kept, and where the row that is kept lies."""

    keys: np.ndarray
    occurrences: np.ndarray
    kept: np.ndarray
    owner: np.ndarray
    first: np.ndarray
    order: np.ndarray
    """All rows by the bytes of their keys."""

    @classmethod
    def of(cls, sources: Sequence[SourceStore]) -> "_Rows":
        keys = np.concatenate([source.index.keys for source in sources])
        counts = np.concatenate([source.index.occurrences for source in sources]).astype(np.int64)
        first = np.cumsum([0, *(len(source.index.row) for source in sources)])
        swapped = keys.byteswap()  # read as big-endian numbers, keys sort as their bytes do
        order = np.lexsort((swapped[:, 1], swapped[:, 0]))  # stable: of equal keys the earliest store's comes first
        sorted_keys = keys[order]
        begins = np.concatenate([[True], (sorted_keys[1:] != sorted_keys[:-1]).any(1)])[: len(keys)]
        kept, owner, sums = np.zeros(len(keys), bool), np.empty(len(keys), np.int64), np.zeros(len(keys), np.int64)
        kept[order] = begins
        owner[order] = order[begins][np.cumsum(begins) - 1]
        np.add.at(sums, owner, counts)
        return cls(keys, sums, kept, owner, first, order)

    def of_store(self, number: int) -> slice:
        """The rows of one store."""
        return slice(int(self.first[number]), int(self.first[number + 1]))

    def input_digest(self) -> str:
        """The digest that a plan over all inputs together would have."""
        rows = self.order[self.kept[self.order]]
        return digest_input(self.keys[rows], self.occurrences[rows])

    def check(self, sources: Sequence[SourceStore]) -> None:
        """StoreError when two rows of one key are not one sample."""
        if len(self.keys) and self.occurrences.max() > _MOST_OCCURRENCES:
            raise StoreError(f"a sample may occur {_MOST_OCCURRENCES:,} times, one occurs {self.occurrences.max():,}")
        readers: dict[int, LabelStore] = {}
        for row in np.flatnonzero(~self.kept).tolist():
            places = [self._place_of(place) for place in (int(self.owner[row]), row)]
            what = [_content(sources, readers, *place) for place in places]
            if what[0] != what[1]:
                where = " and ".join(str(sources[number].place) for number, _ in places)
                raise StoreError(
                    f"key {self.keys[row].tobytes().hex()} means two samples: in {where} it has {what[0][:80]} and "
                    f"{what[1][:80]}. One store was altered, or they were labelled with different targets"
                )

    def _place_of(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self.first, row, "right")) - 1
        return number, row - int(self.first[number])


def _content(sources: Sequence[SourceStore], readers: dict[int, LabelStore], number: int, row: int) -> str:
    """What must be equal of two rows of one key: a text's tokens, or the target."""
    source = sources[number]
    if source.manifest.kind != "text":
        return f"target {int(source.index.targets[row])}"
    if number not in readers:
        readers[number] = LabelStore(source.place, source.manifest)
    positions = readers[number].label_positions(row).tolist() if source.manifest.masked else "all"
    return f"tokens {readers[number].tokens(row).tolist()}, labelled: {positions}"


def _units(sources: Sequence[SourceStore], rows: _Rows) -> Iterator[DerivedUnit]:
    done = 0
    for number, source in enumerate(sources):
        mine = rows.of_store(number)
        kept, occurrences = rows.kept[mine], rows.occurrences[mine]
        for shard in range(len(source.manifest.shards)):
            here = source.rows_of(shard)
            if kept[here].any() or here.start == here.stop:
                yield _unit(f"unit-{done:06d}", source, shard, kept, occurrences)
                done += 1


def _unit(name: str, source: SourceStore, shard: int, kept: np.ndarray, occurrences: np.ndarray) -> DerivedUnit:
    here, receipt = source.rows_of(shard), source.manifest.shards[shard]
    wanted = np.arange(here.start, here.stop)[kept[here]]
    digest = samples_digest(source.index, wanted, occurrences)
    same = bool(kept[here].all()) and np.array_equal(occurrences[here], source.index.occurrences[here])

    def write(out: Place) -> Receipt:
        if same:
            return copy_shard(source, shard, name, digest, out)
        batches = _changed(source, shard, kept[here], occurrences[here])
        return write_shard(out, name, 0, source.schema, batches, unit_digest=digest, codec=source.codec)

    return DerivedUnit(name, digest, receipt.bytes, write)


def _changed(source: SourceStore, shard: int, kept: np.ndarray, occurrences: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The batches of a shard with the rows that are kept, and their occurrences."""
    held, batches = read_batches(source, shard)
    place = source.schema.get_field_index("occurrences")
    start = 0
    for batch in batches:
        held.check()
        here = slice(start, start + batch.num_rows)
        rows = np.flatnonzero(kept[here])
        columns = batch.take(pa.array(rows)).columns
        columns[place] = pa.array(occurrences[here][rows].astype(np.int32))
        yield pa.record_batch(columns, schema=source.schema)
        start = here.stop


def _fidelity(sources: Sequence[SourceStore]) -> dict[str, Any]:
    extras = (source.manifest.extra for source in sources)
    measured = next((extra["fidelity"] for extra in extras if "fidelity" in extra), None)
    return {} if measured is None else {"fidelity": measured}
