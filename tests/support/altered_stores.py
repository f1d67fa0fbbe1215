"""Stores that are whole and have digests of their own, but not the labels that were made."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdcore.store import (
    Location,
    ShardRow,
    batches_from_rows,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_receipt,
    read_journal,
    verify_store,
    write_shard,
)
from kdcore.store.schema import LABEL_SPANS, TOKEN_LOG_PROBS, VIEWS


def rewritten(source: Location, target: Path, change: Callable[[list[ShardRow]], list[ShardRow]]) -> Path:
    """A store of the same identity, whole and with digests of its own, after a change of its rows."""
    store = open_store(source)
    schema = store.manifest.schema(store.codec)
    beside = [name for name in (VIEWS, TOKEN_LOG_PROBS, LABEL_SPANS) if name in schema.names]
    rows = []
    for row in range(store.num_rows):
        columns = {**store.row_view(row).columns, **{name: store._values(row, name) for name in beside}}
        tokens = store.tokens(row) if store.kind == "text" else None
        target_class = None if store.kind == "text" else int(store.targets()[row])
        rows.append(ShardRow(store.key(row), store.name(row), 1, columns, tokens=tokens, target=target_class))
    open_for_writing(target, store.identity)
    batches = batches_from_rows(schema, change(rows))
    publish_receipt(target, write_shard(target, "unit-000000", 0, schema, batches, unit_digest="d", codec=store.codec))
    publish_manifest(target, store.identity, read_journal(target, {"unit-000000": "d"}), {}, store.manifest.codec_state)
    assert verify_store(target).ok  # all else is right
    return target


def with_columns(row: ShardRow, **columns: np.ndarray) -> ShardRow:
    """With other columns in the place of some."""
    return replace(row, columns={**row.columns, **columns})
