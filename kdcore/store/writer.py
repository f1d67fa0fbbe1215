"""Open a store for writing, and write one shard of it."""

import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.identity import canonical_json, compare_identity, new_hash
from kdcore.store.layout import CARD, DATA, IDENTITY, JOURNAL, MANIFEST, PROBE, check_unit
from kdcore.store.place import Sink
from kdcore.store.places import Location, Place, open_place
from kdcore.store.schema import count_labels

__all__ = [
    "HashingSink",
    "Receipt",
    "identity_text",
    "open_for_writing",
    "prepare_store",
    "read_identity",
    "write_shard",
]

_ATTEMPT = re.compile(r"[A-Za-z0-9_-]+")
_OURS = frozenset({MANIFEST, IDENTITY, CARD, PROBE, DATA, JOURNAL})


@dataclass(frozen=True)
class Receipt:
    """Proof of one written shard: which unit, which file (relative to the store), how much, and its digest."""

    unit: str
    shard: str
    rows: int
    labels: int
    bytes: int
    digest: str
    unit_digest: str


def prepare_store(store: Location) -> Place:
    """Make the place of a store; StoreError when it holds something that is not one."""
    place = open_place(store)
    found = place.entries()
    foreign = [name for name in found if name not in _OURS and name[0] != "." and not name.startswith("index-")]
    if foreign and IDENTITY not in found:
        raise StoreError(
            f"{place} is not a label store and not empty (it has {foreign[:5]}): set labels.path elsewhere"
        )
    place.prepare(DATA, JOURNAL)
    return place


def open_for_writing(store: Location, identity: Mapping[str, Any]) -> Place:
    """Create the store or continue it; IdentityMismatch when it is of another identity, StoreError if not a store."""
    place = prepare_store(store)
    content = identity_text(identity)
    if not place.put_if_absent(IDENTITY, content):
        compare_identity(read_identity(place), identity, what=f"the label store {place}")
    elif place.trusts_nobody and place.put_if_absent(IDENTITY, content):
        raise StoreError(
            f"{place} was written twice where only the first writer may win: this storage ignores conditional puts "
            f"(If-None-Match), so two jobs could mix their labels. Set labels.path to a storage that heeds them"
        )
    return place


def identity_text(identity: Mapping[str, Any]) -> bytes:
    """The text of identity.json: one identity has one text, so that no bit of it can change unseen."""
    return json.dumps(identity, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def read_identity(store: Location) -> dict[str, Any]:
    """The identity that the store was begun with; StoreError when it cannot be read."""
    place = open_place(store)
    try:
        value = json.loads(place.read(IDENTITY))
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"{place.where(IDENTITY)} cannot be read ({error}): restore it, or label into a new path"
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{place.where(IDENTITY)} must hold an object, got {canonical_json(value)[:80]}")
    return value


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
) -> Receipt:
    """Write one immutable shard, durable and hashed, under a name that no other attempt has; returns its receipt.

    Nobody reads the shard until its receipt is published. OutOfSpace when the disk is full; nothing partial stays.
    """
    name = shard_name(unit, attempt)
    with open_place(store).writer(name) as file:
        sink = HashingSink(file)
        rows, labels = _write_batches(sink, schema, batches)
    return Receipt(unit, name, rows, labels, sink.size, sink.hash.hexdigest(), unit_digest)


def _write_batches(sink: "HashingSink", schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    rows = labels = 0
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
            labels += count_labels(batch)
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
