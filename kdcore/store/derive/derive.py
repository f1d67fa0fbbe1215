"""A store made of other stores, or of other files: planned units, and the ordinary commit protocol, so it resumes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.identity import compare_identity, digest_sample_arrays
from kdcore.store.beginning import open_for_writing, publish_probe
from kdcore.store.index import Index, read_part
from kdcore.store.journal import publish_receipt, read_journal, read_receipts
from kdcore.store.manifest import Manifest, is_finished, load_manifest
from kdcore.store.moments import packed_moments
from kdcore.store.opening import check_sizes, open_index
from kdcore.store.part import pack_part
from kdcore.store.probe import read_probe
from kdcore.store.publish import publish_manifest
from kdcore.store.shard import Shard
from kdcore.store.storage.parallel import in_order
from kdcore.store.storage.place import Place, Source, altered
from kdcore.store.storage.places import Location, open_place
from kdcore.store.verify import check_digest
from kdcore.store.writer import HashingSink, Receipt, shard_name

__all__ = [
    "Derived",
    "DerivedUnit",
    "Making",
    "Progress",
    "SourceStore",
    "copy_shard",
    "derive_store",
    "joined",
    "read_batches",
    "samples_digest",
]

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""

_PIECE_BYTES = 16 << 20
_BATCH_BYTES = 32 << 20
_REMEDY = (
    "It was begun from other stores, or with another size of shards: give the same arguments as then, or another path"
)
# Each thread may hold one shard of a bucket in memory.
_THREADS = 4


@dataclass(frozen=True)
class DerivedUnit:
    """One shard to be: its unit, the digest of its samples, about how much there is to read, and what writes it."""

    id: str
    digest: str
    size: int
    write: Callable[[Place], Receipt]


@dataclass(frozen=True)
class Derived:
    """A finished store, and whether it was there already."""

    manifest: Manifest
    was_there: bool


@dataclass(frozen=True)
class Making:
    """What goes into the manifest of a derived store beside its shards.

    `how` it was made is kept as extra["derived"], the rest of `extra` is asked for when all units are there. The probe
    of the store `probe_of` is taken over, so that labelling would go on with the same codec.
    """

    how: Mapping[str, Any]
    extra: Callable[[Place, Sequence[Receipt]], Mapping[str, Any]]
    codec_state: bytes | None = None
    probe_of: Place | None = None


class SourceStore:
    """A finished store that another one is made of: manifest and index, its sizes checked, its shards unread."""

    def __init__(self, store: Location) -> None:
        self.place = open_place(store)
        self.manifest = load_manifest(self.place)
        check_sizes(self.place, self.manifest)
        self.codec = self.manifest.make_codec()
        self._file, self.index = open_index(self.place, self.manifest, self.codec)
        self.schema = self.manifest.schema(self.codec)
        self.digest: str = self.manifest.to_json()["digest"]

    def rows_of(self, shard: int) -> slice:
        """The store's rows that lie in a shard."""
        return slice(int(self.index.first[shard]), int(self.index.first[shard + 1]))

    def record(self) -> dict[str, Any]:
        """What a store that is made of this one says of it; no path, since none is in any file of a store."""
        manifest = self.manifest
        return {
            "manifest": self.digest,
            "created": manifest.created,
            "input": manifest.identity.get("input"),
            "rows": manifest.num_rows,
            "labels": manifest.num_labels,
            "shards": len(manifest.shards),
            "extra": manifest.extra,
        }


def derive_store(
    out: Location,
    identity: Mapping[str, Any],
    units: Sequence[DerivedUnit],
    made: Making,
    progress: Progress | None = None,
) -> Derived:
    """Write every unit that has no receipt yet, then the manifest; a finished store of the same making is left alone.

    IdentityMismatch or StoreError when `out` is another store, or was made in another way.
    """
    place = open_place(out)
    if is_finished(place):
        return Derived(_finished(place, identity, made.how), True)
    _take_probe(made.probe_of, place)
    open_for_writing(place, identity)
    wanted = {unit.id: unit.digest for unit in units}
    done = read_receipts(place, wanted, _REMEDY)
    _write(place, [unit for unit in units if unit.id not in done], units, progress)
    receipts = read_journal(place, wanted)
    extra = {**made.extra(place, receipts), "derived": made.how}
    return Derived(publish_manifest(place, identity, receipts, extra, made.codec_state), False)


def _finished(place: Place, identity: Mapping[str, Any], how: Mapping[str, Any]) -> Manifest:
    found = load_manifest(place)
    compare_identity(found.identity, identity, what=f"the label store {place}")
    wanted = json.loads(json.dumps(how, allow_nan=False))
    if found.extra.get("derived") != wanted:
        raise StoreError(
            f"{place} holds a finished store that was not made so: it says {str(found.extra.get('derived'))[:200]}, "
            f"this would be {str(wanted)[:200]}. Give another path"
        )
    return found


def _take_probe(source: Place | None, place: Place) -> None:
    content = None if source is None else read_probe(source)
    if content is not None:
        publish_probe(place, content)


def _write(place: Place, todo: Sequence[DerivedUnit], units: Sequence[DerivedUnit], progress: Progress | None) -> None:
    total = sum(unit.size for unit in units)
    done = total - sum(unit.size for unit in todo)

    def write(unit: DerivedUnit) -> int:
        publish_receipt(place, unit.write(place))
        return unit.size

    for size in in_order(write, todo, min(_THREADS, place.threads)):
        done += size
        if progress is not None:
            progress(done, total)


def copy_shard(source: SourceStore, shard: int, unit: str, digest: str, out: Place) -> Receipt:
    """A shard byte for byte under a new unit's name, hashed on the way; CorruptShard when it is not what it was."""
    receipt = source.manifest.shards[shard]
    held = source.place.load(receipt.shard, receipt.bytes)
    view, name = memoryview(held.buffer), shard_name(unit, 0)
    with out.writer(name) as file:
        sink = HashingSink(file)
        for start in range(0, len(view), _PIECE_BYTES):
            held.check()
            sink.write(view[start : start + _PIECE_BYTES])
        if sink.hash.hexdigest() != receipt.digest:
            raise altered(source.place.where(receipt.shard), receipt.digest, sink.hash.hexdigest())
        opened = Shard(source.place, receipt, source.schema, source=held)
        part, moments = read_part(opened, source.codec), packed_moments(source.codec, opened.batches)
    part = pack_part(part, receipt.digest)
    return replace(receipt, unit=unit, shard=name, unit_digest=digest, part=part, moments=moments)


def read_batches(source: SourceStore, shard: int) -> tuple[Source, list[pa.RecordBatch]]:
    """The record batches of a shard whose digest was compared; they live as long as the source that comes with them."""
    receipt = source.manifest.shards[shard]
    opened = Shard(source.place, receipt, source.schema, source=check_digest(source.place, receipt))
    return opened.source, opened.batches


def joined(batches: Iterator[pa.RecordBatch], limit: int = _BATCH_BYTES) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of about `limit` bytes; none is cut."""
    pending: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if pending and size + batch.nbytes > limit:
            yield pa.concat_batches(pending)
            pending, size = [], 0
        pending.append(batch)
        size += batch.nbytes
    if pending:
        yield pa.concat_batches(pending)


def samples_digest(index: Index, rows: slice | np.ndarray, occurrences: np.ndarray | None = None) -> str:
    """Digest of some rows' keys and occurrences: the digest of a unit."""
    counts = index.occurrences if occurrences is None else occurrences
    return digest_sample_arrays(index.keys[rows], counts[rows])
