"""Open a store for writing, and write one shard of it."""

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from kdcore.errors import KDError, StoreError
from kdcore.identity import canonical_json, compare_identity, new_hash
from kdcore.store.layout import (
    CARD,
    DATA,
    IDENTITY,
    JOURNAL,
    MANIFEST,
    check_unit,
    fsync_dir,
    out_of_space,
    publish_file,
)
from kdcore.store.schema import count_labels

__all__ = ["Receipt", "open_for_writing", "read_identity", "write_shard"]

_ATTEMPT = re.compile(r"[A-Za-z0-9_-]+")


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


def open_for_writing(store_path: str | Path, identity: Mapping[str, Any]) -> Path:
    """Create the store or continue it; IdentityMismatch when it is of another identity, StoreError if not a store."""
    store = Path(store_path)
    try:
        store.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(store)
        (store / DATA).mkdir(exist_ok=True)
        (store / JOURNAL).mkdir(exist_ok=True)
        fsync_dir(store)
    except OSError as error:
        raise out_of_space(error, store, 0) from error
    text = json.dumps(identity, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if not publish_file(store / IDENTITY, text.encode()):
        compare_identity(read_identity(store), identity, what=f"the label store {store}")
    return store


def read_identity(store: Path) -> dict[str, Any]:
    """The identity that the store was begun with; StoreError when it cannot be read."""
    try:
        value = json.loads((store / IDENTITY).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{store / IDENTITY} cannot be read ({error}): restore it, or label into a new path"
        ) from error
    if not isinstance(value, dict):
        raise StoreError(f"{store / IDENTITY} must hold an object, got {canonical_json(value)[:80]}")
    return value


def _refuse_foreign(store: Path) -> None:
    ours = {MANIFEST, IDENTITY, CARD, DATA, JOURNAL}
    foreign = sorted(entry.name for entry in store.iterdir() if entry.name not in ours and entry.name[0] != ".")
    if foreign and not (store / IDENTITY).exists():
        raise StoreError(
            f"{store} is not a label store and not empty (it has {foreign[:5]}): set labels.path elsewhere"
        )


def write_shard(
    store_path: str | Path,
    unit: str,
    attempt: str | int,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    unit_digest: str,
) -> Receipt:
    """Write one immutable shard, durable and hashed, under a name that no other attempt has; returns its receipt.

    Nobody reads the shard until its receipt is published. OutOfSpace when the disk is full; a partial file is removed.
    """
    if not _ATTEMPT.fullmatch(str(attempt)):
        raise StoreError(f"an attempt is letters, digits, '-' and '_', got {attempt!r}")
    # Two jobs may both be at attempt 1 of a unit, hence the token.
    name = f"{check_unit(unit)}-{attempt}-{secrets.token_hex(4)}.arrow"
    path = Path(store_path) / DATA / name
    partial = path.with_name(f".{name}.partial")
    try:
        with open(partial, "xb") as file:
            sink = _HashingFile(file)
            rows, labels = _write_batches(sink, schema, batches)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, path)
        fsync_dir(path.parent)
    except KDError:  # of the rows; some of them are OSErrors too
        raise
    except OSError as error:
        raise out_of_space(error, path, partial.stat().st_size if partial.exists() else 0) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    return Receipt(unit, f"{DATA}/{name}", rows, labels, sink.size, sink.hash.hexdigest(), unit_digest)


def _write_batches(sink: "_HashingFile", schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> tuple[int, int]:
    rows = labels = 0
    with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
            labels += count_labels(batch)
    return rows, labels


class _HashingFile:
    """Passes writes on, and hashes and counts what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hash, self.size, self.closed = new_hash(), 0, False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self.hash.update(view)
        self.size += view.nbytes
        self.file.write(view)
        return view.nbytes

    def flush(self) -> None:
        self.file.flush()

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        self.closed = True
