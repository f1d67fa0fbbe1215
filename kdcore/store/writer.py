"""Write one shard of a store."""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.identity import new_hash
from kdcore.labels import Codec
from kdcore.store.columns import check_batch, labels_per_row
from kdcore.store.layout import DATA, check_unit
from kdcore.store.moments import MomentsBuilder
from kdcore.store.part import PartBuilder, pack_part
from kdcore.store.storage.place import Sink
from kdcore.store.storage.places import Location, open_place

__all__ = ["HashingSink", "Receipt", "shard_name", "write_shard"]

_ATTEMPT = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Receipt:
    """Proof of one written shard: which unit, which file (relative to the store), how much, and its digest.

    The rest is for whoever finishes the store, so that nobody opens the shard again for it; a manifest leaves it out.
    `part` is the shard's part of the index; of the `measured` labels, `agreed` have their target as best class, and
    `negative_log_likelihood` is the sum over their targets. `forward_seconds` is how long the teacher was in its
    forward passes, `ideal_seconds` what the tokens that it read would take at its device's peak; 0: nobody measured.
    `moments` are the statistics of features (see `moments.py`).
    """

    unit: str
    shard: str
    rows: int
    labels: int
    bytes: int
    digest: str
    unit_digest: str
    part: str = field(default="", repr=False, compare=False)
    measured: int = field(default=0, compare=False)
    agreed: int = field(default=0, compare=False)
    negative_log_likelihood: float = field(default=0.0, compare=False)
    forward_seconds: float = field(default=0.0, compare=False)
    ideal_seconds: float = field(default=0.0, compare=False)
    moments: str = field(default="", repr=False, compare=False)

    def listed(self) -> "Receipt":
        """What a manifest keeps of it."""
        unlisted = {entry.name: entry.default for entry in fields(self) if not entry.compare}
        return replace(self, **unlisted)


def shard_name(unit: str, attempt: str | int) -> str:
    """A name for a shard that no other attempt has; StoreError when unit or attempt are no part of a file name."""
    if not _ATTEMPT.fullmatch(str(attempt)):
        raise StoreError(f"an attempt is letters, digits, '-' and '_', got {attempt!r}")
    # Two jobs may both be at attempt 1 of a unit, hence the token.
    return f"{DATA}/{check_unit(unit)}-{attempt}-{secrets.token_hex(4)}.arrow"


def write_shard(
    store: Location,
    unit: str,
    attempt: str | int,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    unit_digest: str,
    codec: Codec | None = None,
) -> Receipt:
    """Write one immutable shard, durable and hashed, under a name that no other attempt has; returns its receipt.

    Nobody reads the shard until its receipt is published. OutOfSpace when the disk is full, CorruptShard for a batch
    with nulls or, given the `codec`, with rows whose columns do not fit their labels; nothing partial stays.
    """
    name = shard_name(unit, attempt)
    with open_place(store).writer(name) as file:
        sink = HashingSink(file)
        builder, moments = PartBuilder(name, codec), MomentsBuilder(codec)
        rows, labels = _write_batches(sink, schema, batches, builder, moments)
    digest = sink.hash.hexdigest()
    part = pack_part(builder.part(), digest)
    return Receipt(unit, name, rows, labels, sink.size, digest, unit_digest, part, moments=moments.packed())


def _write_batches(
    sink: "HashingSink",
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    builder: PartBuilder,
    moments: MomentsBuilder,
) -> tuple[int, int]:
    rows = labels = 0
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            check_batch(batch, builder.where)
            builder.add(batch)
            moments.add(batch)
            rows += batch.num_rows
            labels += int(labels_per_row(batch).sum())
    return rows, labels


class HashingSink:
    """Passes writes on, and hashes and counts what passes; a file object for Arrow."""

    def __init__(self, file: Sink) -> None:
        self.file = file
        self.hash, self.size, self.closed = new_hash(), 0, False

    def write(self, data: Any) -> int:
        """Hash and pass on."""
        view = memoryview(data)
        self.hash.update(view)
        self.size += view.nbytes
        self.file.write(view)
        return view.nbytes

    def flush(self) -> None:
        """The place decides when to flush."""

    def tell(self) -> int:
        """Bytes so far."""
        return self.size

    def close(self) -> None:
        """The place closes its file itself."""
        self.closed = True
