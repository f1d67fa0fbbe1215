"""Small stores for tests of the store."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from kdcore.identity import sample_key_text
from kdcore.labels import RowView, SoftLabels, TopKCodec
from kdcore.store import (
    Location,
    Receipt,
    ShardRow,
    batches_from_rows,
    open_for_writing,
    publish_manifest,
    publish_receipt,
    read_journal,
    store_schema,
    write_shard,
)

Store = TypeVar("Store", str, Path)
CLASSES = 50
UNITS = {f"unit-{number:06d}": f"digest-{number}" for number in range(3)}


def codec_of(k: int = 4) -> TopKCodec:
    return TopKCodec(k, CLASSES)


def identity_of(kind: str = "text", **changes) -> dict:
    teacher = {"path": "models/x", "weights": "aa", "dtype": "float32"}
    identity = {
        "format": 2,
        "kind": kind,
        "teacher": teacher,
        "tokenizer": "t",
        "input": "i",
        "versions": {"torch": "2"},
    }
    return {**identity, "codec": codec_of().spec(), "numerics": {"context": 128}, **changes}


def row_of(unit: int, number: int, kind: str = "text") -> ShardRow:
    """Row `number` of unit `unit`; rows of a text have 1, 6, 7, ... tokens."""
    generator = torch.Generator().manual_seed(100 * unit + number)
    length = 1 if number == 0 else 5 + number + unit
    count = length - 1 if kind == "text" else 1
    logits = torch.randn(count, CLASSES, generator=generator) * 3
    columns = codec_of().encode(logits, np.zeros(count, np.uint64))
    key, name = sample_key_text(f"{unit}-{number}"), f"sample-{unit}-{number}"
    if kind == "image":
        return ShardRow(key, name, 1, columns, target=None if number == 0 else number)
    columns["token_log_probs"] = np.linspace(-3, -1, count, dtype=np.float16)
    return ShardRow(key, name, 1 + number % 2, columns, tokens=np.arange(length) + unit)


def labels_of(row: ShardRow) -> SoftLabels:
    codec = codec_of()
    columns = {name: row.columns[name] for name in codec.widths()}
    count = len(columns["tail_log_prob"])
    return codec.decode([RowView(columns, count)], [0], [count])


def rows_of(unit: int, kind: str = "text", count: int = 4) -> list[ShardRow]:
    return [row_of(unit, number, kind) for number in range(count)]


def write_unit(store: Location, unit: int, kind: str = "text", rows: list[ShardRow] | None = None) -> Receipt:
    schema = store_schema(kind, codec_of())
    batches = batches_from_rows(schema, rows_of(unit, kind) if rows is None else rows)
    name = list(UNITS)[unit]
    return write_shard(store, name, 0, schema, batches, unit_digest=UNITS[name])


def make_store(store: Store, kind: str = "text") -> Store:
    open_for_writing(store, identity_of(kind))
    for unit in range(len(UNITS)):
        publish_receipt(store, write_unit(store, unit, kind))
    publish_manifest(store, identity_of(kind), read_journal(store, UNITS), {"statistics": {"nll": 1.5}})
    return store
