"""Made images: the units' shards in, Parquet files out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from kdcore.data.synthesised.gathering import Generation, SampleFile, distinct, write_generation, write_samples
from kdcore.data.synthesised.shards import PROVENANCE
from kdcore.store.storage.places import Location, open_place
from kdcore.store.verify import check_digest
from kdcore.store.writer import Receipt

__all__ = ["Judge", "gather_images"]


class Judge(Protocol):
    """Looks at what is kept."""

    def see(self, images: Sequence[bytes], targets: Sequence[int]) -> None:
        """Encoded images of a unit, and the classes they were made for."""
        ...

    def verdict(self) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """Figures as JSON, and what is wrong in words."""
        ...


def gather_images(
    raw: Location,
    receipts: Sequence[Receipt],
    folder: Path,
    number: int,
    asked: str,
    identity: Mapping[str, Any],
    judge: Judge,
) -> Generation:
    """Every image of the units once, in their order; a digest is compared before a shard is read.

    CorruptShard for a shard that is not what its receipt says; OutOfSpace when the disk is full.
    """
    files: list[SampleFile] = []
    seen: set[bytes] = set()
    for receipt in receipts:
        table = _read(raw, receipt)
        keys: list[bytes] = table.column("key").to_pylist()
        fresh = [position for position in distinct(keys) if keys[position] not in seen]
        seen.update(keys[position] for position in fresh)
        kept = table.take(fresh)
        judge.see(kept.column("image").to_pylist(), kept.column("target").to_pylist())
        files.append(write_samples(folder, number, receipt.unit, _for_people(kept)))
    made = sum(receipt.rows for receipt in receipts)
    figures, faults = judge.verdict()
    repeated = made - len(seen)
    twice = (f"{repeated:,} of {made:,} images were made twice, and are kept once",) if repeated else ()
    found = Generation(number, asked, dict(identity), made, tuple(files), dict(figures), (*twice, *faults))
    write_generation(folder, found)
    return found


def _read(raw: Location, receipt: Receipt) -> pa.Table:
    source = check_digest(open_place(raw), receipt)
    return pa.ipc.open_file(pa.BufferReader(source.buffer)).read_all()


def _for_people(table: pa.Table) -> pa.Table:
    """With the columns of a dataset of images: a struct with `bytes`, and `label`."""
    image: Any = pa.array([{"bytes": data, "path": None} for data in table.column("image").to_pylist()], _IMAGE)
    columns = {"image": image, "label": table.column("target").cast(pa.int64()), "name": table.column("name")}
    return pa.table({**columns, **{name: table.column(name) for name in PROVENANCE}})


_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
