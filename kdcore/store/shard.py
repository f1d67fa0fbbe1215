"""One shard, mapped and checked before anything in it is used."""

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard, IdentityMismatch, KDError
from kdcore.identity import canonical_json
from kdcore.store.columns import check_batch, key_words, labels_per_row
from kdcore.store.layout import check_shard
from kdcore.store.schema import schema_metadata
from kdcore.store.storage.place import Source
from kdcore.store.storage.places import Location, open_place
from kdcore.store.writer import Receipt

__all__ = ["Shard", "open_batches", "refuse_extensions"]

# An Arrow file ends with its footer, which holds the schema, the footer's length in 4 bytes, and "ARROW1".
_END = 10
_EXTENSION = b"ARROW:extension:"


class Shard:
    """A shard's batches. Opening checks its size, footer, schema, counts, offsets and texts; not its digest.

    With `keep`, what lies elsewhere is copied into the cache (its digest is compared then) and mapped from there;
    without, it is read into memory for this one use. `source` are its bytes, where the caller has them already.
    """

    def __init__(
        self, store: Location, receipt: Receipt, schema: pa.Schema, keep: bool = True, source: Source | None = None
    ) -> None:
        place = open_place(store)
        self.path = place.where(check_shard(receipt.shard, str(place)))
        self.receipt = receipt
        self.source: Source = source or (
            place.mapped(receipt.shard, receipt.bytes, receipt.digest)
            if keep
            else place.load(receipt.shard, receipt.bytes)
        )
        self.batches = open_batches(self.source.buffer, schema, self.path)
        rows = sum(batch.num_rows for batch in self.batches)
        labels = sum(int(labels_per_row(batch).sum()) for batch in self.batches)
        if (rows, labels) != (receipt.rows, receipt.labels):
            raise CorruptShard(
                f"{self.path} must hold {receipt.rows} rows and {receipt.labels} labels, it holds {rows} and {labels}"
            )

    def keys(self) -> np.ndarray:
        """Keys [rows, 2] uint64 (the 16 bytes of each), a copy."""
        return np.concatenate([np.empty((0, 2), np.uint64), *map(key_words, self.batches)])


def open_batches(buffer: pa.Buffer, schema: pa.Schema, where: str) -> list[pa.RecordBatch]:
    """The record batches of an Arrow file of exactly this schema, views of `buffer`, safe to slice.

    IdentityMismatch when its metadata says something else than the manifest, CorruptShard for damage.
    """
    refuse_extensions(buffer, where)
    try:
        reader = pa.ipc.open_file(pa.BufferReader(buffer))
        _check_schema(reader.schema, schema, where)
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
    except KDError:  # some of them are ValueErrors too
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CorruptShard(f"{where} is damaged: {error}") from error
    for batch in batches:
        check_batch(batch, where)
    return batches


def refuse_extensions(buffer: pa.Buffer, where: str) -> None:
    """CorruptShard when the footer declares an extension type.

    Before Arrow reads the schema: what other packages of this process have registered (Ray, datasets) would be run on
    the parameters of the type, and some of these were pickles once.
    """
    end = max(0, buffer.size - _END)
    length = int.from_bytes(buffer.slice(end).to_pybytes()[:4], "little")
    if _EXTENSION in buffer.slice(max(0, end - length)).to_pybytes():
        raise CorruptShard(
            f"{where} declares an extension type, of which a store has none: its columns and their values have no "
            f"metadata of their own, since what reads it may run code; restore it from a copy"
        )


def _check_schema(found: pa.Schema, wanted: pa.Schema, where: str) -> None:
    ours, theirs = schema_metadata(wanted), schema_metadata(found)
    if ours != theirs:
        raise IdentityMismatch(
            f"{where} says it holds {canonical_json(theirs)}, its manifest says {canonical_json(ours)}: "
            f"files of another store were copied here"
        )
    if found.metadata != wanted.metadata or not found.equals(wanted, check_metadata=True):
        raise CorruptShard(
            f"{where} must have the columns {wanted.names}, typed as its codec says and without metadata of their own; "
            f"got {found.to_string(show_field_metadata=False, show_schema_metadata=False)}"
        )
