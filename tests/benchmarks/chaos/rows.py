"""Two stores compared, row by row and shard by shard, without the reader that labels are served by."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from kdcore.store import is_finished, load_manifest, open_place, read_receipts

__all__ = ["Comparison", "Content", "Unit", "compare", "content_of"]


@dataclass(frozen=True)
class Unit:
    """What the shard of a unit holds: its digest, and of each row the key, the name and a digest of all columns."""

    digest: str
    rows: tuple[tuple[bytes, str, str], ...]

    @property
    def keys(self) -> list[bytes]:
        """The keys of its rows."""
        return [key for key, _, _ in self.rows]


Content = dict[str, Unit]
"""All units of a store."""


@dataclass(frozen=True)
class Comparison:
    """How a store differs from another."""

    missing: int
    doubled: int
    different: int
    shards: int


def content_of(store: str) -> Content:
    """Of a finished store what its manifest names, of another what its receipts name."""
    place = open_place(store)
    receipts = load_manifest(store).shards if is_finished(store) else read_receipts(store).values()
    found: Content = {}
    for receipt in receipts:
        source = place.load(receipt.shard, receipt.bytes)
        table = pa.ipc.open_file(source.buffer).read_all()
        rows = tuple((row["key"], row["name"], _digest(row)) for row in table.to_pylist())
        found[receipt.unit] = Unit(receipt.digest, rows)
    return found


def compare(found: Content, wanted: Content, without: Collection[str] = ()) -> Comparison:
    """`found` against `wanted`, less the units `without`."""
    expected = {key: row for name, unit in wanted.items() if name not in without for key, _, row in unit.rows}
    rows = [(key, row) for unit in found.values() for key, _, row in unit.rows]
    return Comparison(
        missing=len(expected.keys() - {key for key, _ in rows}),
        doubled=len(rows) - len({key for key, _ in rows}),
        different=sum(expected.get(key) != row for key, row in rows),
        shards=sum(
            name not in found or found[name].digest != unit.digest
            for name, unit in wanted.items()
            if name not in without
        ),
    )


def _digest(row: dict[str, object]) -> str:
    """Of all columns; what Python prints of a number is that number."""
    return hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
