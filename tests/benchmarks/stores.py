"""Label stores that are made for a measurement."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdcore.labels import Codec
from kdcore.store import (
    LabelStore,
    ShardRow,
    batches_from_rows,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_receipt,
    store_schema,
    write_shard,
)


def make_store(path: Path, codec: Codec, units: Iterable[Sequence[ShardRow]], **identity: Any) -> LabelStore:
    """A finished store with a shard for each of `units`; `identity` has its `kind`, and its `vocabulary` or `views`."""
    whole = {
        "format": 2, "teacher": {"name": "made for a benchmark"}, "tokenizer": None, "numerics": {},
        "codec": codec.spec(), "input": "none", "versions": {}, **identity,
    }  # fmt: skip
    schema = store_schema(identity["kind"], codec, identity.get("vocabulary"), views=identity.get("views"))
    open_for_writing(path, whole)
    receipts = []
    for number, rows in enumerate(units):
        batches = batches_from_rows(schema, rows)
        receipts.append(write_shard(path, f"unit-{number:06d}", 0, schema, batches, unit_digest="0" * 32))
        publish_receipt(path, receipts[-1])
    publish_manifest(path, whole, receipts, {}, codec.state())
    return open_store(path)
