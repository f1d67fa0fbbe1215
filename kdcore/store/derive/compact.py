"""Few large shards from many small ones: the same rows in the same order, the same columns bit for bit."""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.store.derive.derive import (
    Derived,
    DerivedUnit,
    Making,
    Progress,
    SourceStore,
    copy_shard,
    derive_store,
    joined,
    read_batches,
    samples_digest,
)
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import Location, open_place
from kdcore.store.writer import Receipt, write_shard

__all__ = ["compact_store"]

_NOTE = "the rows of one store in larger shards; fidelity and statistics were measured when that store was labelled"


def compact_store(store: Location, out: Location, shard_bytes: int, progress: Progress | None = None) -> Derived:
    """A new store `out` of shards of about `shard_bytes`; a killed run continues, a finished one is left alone.

    Consecutive shards are joined while they fit; one that is larger already is copied as it is. Raises CorruptShard
    for a damaged shard of `store`, StoreError when `out` holds something else.
    """
    if shard_bytes < 1:
        raise StoreError(f"a shard must have at least one byte, got --shard-bytes {shard_bytes}")
    if open_place(store) == open_place(out):
        raise StoreError(f"published shards never change: {out} cannot be compacted into itself, give another path")
    source = SourceStore(store)
    units = [_unit(source, number, group) for number, group in enumerate(_groups(source, shard_bytes))]
    manifest = source.manifest
    made = Making(_how(source, shard_bytes), lambda *_: manifest.extra, manifest.codec_state, source.place)
    return derive_store(out, manifest.identity, units, made, progress)


def _how(source: SourceStore, shard_bytes: int) -> dict[str, Any]:
    earlier = {name: value for name, value in source.manifest.extra.items() if name == "derived"}
    record = {**source.record(), "extra": earlier}
    return {"how": "compact", "note": _NOTE, "shard_bytes": shard_bytes, "sources": [record]}


def _groups(source: SourceStore, shard_bytes: int) -> list[list[int]]:
    groups: list[list[int]] = []
    room = 0
    for number, receipt in enumerate(source.manifest.shards):
        if not groups or receipt.bytes > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(number)
        room -= receipt.bytes
    return groups


def _unit(source: SourceStore, number: int, group: Sequence[int]) -> DerivedUnit:
    name = f"unit-{number:06d}"
    rows = slice(source.rows_of(group[0]).start, source.rows_of(group[-1]).stop)
    digest = samples_digest(source.index, rows)

    def write(out: Place) -> Receipt:
        if len(group) == 1:
            return copy_shard(source, group[0], name, digest, out)
        batches = joined(_batches(source, group))
        return write_shard(out, name, 0, source.schema, batches, unit_digest=digest, codec=source.codec)

    return DerivedUnit(name, digest, sum(source.manifest.shards[shard].bytes for shard in group), write)


def _batches(source: SourceStore, group: Sequence[int]) -> Iterator[pa.RecordBatch]:
    for shard in group:
        held, batches = read_batches(source, shard)
        for batch in batches:
            held.check()
            yield batch
