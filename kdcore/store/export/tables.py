"""An export's rows as tables: plain columns, or DistillKit's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from kdcore.errors import StoreError
from kdcore.identity import canonical_json
from kdcore.labels import SpanCodec, SpanLabels
from kdcore.store.distillkit import columns as distillkit
from kdcore.store.export.ranked import Ranked, join_ranked
from kdcore.store.reader import LabelStore

__all__ = ["ABSENT", "ExportSettings", "Row", "layout_of"]

ABSENT = -1e9
"""The log-probability of an entry that is not there: exp gives zero, and zero times it is no NaN."""
Format = Literal["plain", "distillkit"]
"""What an export looks like."""
_NESTED = {"target_token_ids": pa.int32(), "target_logprobs": pa.float32(), "target_mask": pa.int8()}
_SPANS = {"token_log_probs": pa.float32(), "boundary_log_probs": pa.float32()}
_SPANS |= {"byte_begins": pa.int64(), "byte_ends": pa.int64()}


@dataclass(frozen=True)
class ExportSettings:
    """What is written: `top` entries a label, `rows` samples a file, entries renormalised to sum to one or not."""

    top: int
    format: Format = "plain"
    renormalise: bool = False
    rows: int = 4096

    def __post_init__(self) -> None:
        if self.top < 1 or self.rows < 1:
            raise StoreError(f"an export has at least one entry a label and one row a file, got {self}")
        if self.format not in ("plain", "distillkit"):
            raise StoreError(f"an export is 'plain' or 'distillkit', got {self.format!r}")


class Row(NamedTuple):
    """One sample with its entries."""

    number: int
    entries: Ranked


Table = Callable[[LabelStore, Sequence[Row], ExportSettings], pa.Table]
"""Makes a table of some rows."""


def layout_of(store: LabelStore, settings: ExportSettings) -> tuple[pa.Schema, Table]:
    """The schema of the files, and what makes rows into a table of it."""
    if settings.format == "distillkit":
        return distillkit.SCHEMA, _packed_table
    own = pa.field("input_ids", pa.list_(pa.int32())) if store.kind == "text" else pa.field("target", pa.int32())
    plain = [pa.field("key", pa.string()), pa.field("name", pa.string()), pa.field("occurrences", pa.int32())]
    where = [pa.field("label_positions", pa.list_(pa.int32()))] if store.masked else []
    where += [] if store.view_spec is None else [pa.field("views", pa.list_(pa.string()))]
    if isinstance(store.codec, SpanCodec):
        flat = [pa.field(name, pa.list_(kind)) for name, kind in _SPANS.items()]
        return pa.schema([*plain, own, *where, *flat]), _span_table
    nested = [pa.field(name, pa.list_(pa.list_(kind))) for name, kind in _NESTED.items()]
    return pa.schema([*plain, own, *where, *nested]), _plain_table


def _span_table(store: LabelStore, rows: Sequence[Row], settings: ExportSettings) -> pa.Table:
    schema, _ = layout_of(store, settings)
    numbers = [row.number for row in rows]
    values: dict[str, Any] = {name: [] for name in _SPANS}
    for number in numbers:
        labels = store.labels(number)
        assert isinstance(labels, SpanLabels)
        found = labels.log_probs, labels.boundary_log_probs, labels.begins, labels.ends
        for name, column in zip(_SPANS, found, strict=True):
            values[name].append(column.numpy())
    values |= _of_texts(store, numbers)
    return pa.table([pa.array(values[entry.name], entry.type) for entry in schema], schema=schema)


def _of_texts(store: LabelStore, numbers: list[int]) -> dict[str, Any]:
    return {
        **_of_rows(store, numbers),
        "input_ids": [store.tokens(number).astype(np.int32) for number in numbers],
        "label_positions": [store.label_positions(number).astype(np.int32) for number in numbers],
    }


def _of_rows(store: LabelStore, numbers: list[int]) -> dict[str, Any]:
    return {
        "key": [store.key(number).hex() for number in numbers],
        "name": [store.name(number) for number in numbers],
        "occurrences": store.occurrences()[numbers],
    }


def _plain_table(store: LabelStore, rows: Sequence[Row], settings: ExportSettings) -> pa.Table:
    schema, _ = layout_of(store, settings)
    numbers = [row.number for row in rows]
    entries = join_ranked([row.entries for row in rows])
    counts = np.array([len(row.entries.ids) for row in rows])
    values: dict[str, Any] = {
        **_of_rows(store, numbers),
        "target_token_ids": _nested(counts, entries.ids.numpy().astype(np.int32)),
        "target_logprobs": _nested(counts, _log_probs(entries, settings)),
        "target_mask": _nested(counts, entries.known.numpy().astype(np.int8)),
    }
    if store.kind == "text":
        values |= _of_texts(store, numbers)
    else:
        targets = store.targets()[numbers]
        values["target"] = pa.array(targets, pa.int32(), mask=targets < 0)
        if store.view_spec is not None:
            each = store.view_spec.per_image
            views = store.views_of(numbers)
            texts = [canonical_json(views.view(number).named()) for number in range(len(views))]
            values["views"] = [texts[start : start + each] for start in range(0, len(texts), each)]
    return pa.table([pa.array(values[entry.name], entry.type) for entry in schema], schema=schema)


def _nested(counts: np.ndarray, values: np.ndarray) -> pa.ListArray:
    """`values` [N, W] as list<list<W>>: the first counts[0] lines in the first list, and so on."""
    lines = pa.ListArray.from_arrays(
        pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]), pa.array(values.reshape(-1))
    )
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)), lines)


def _log_probs(entries: Ranked, settings: ExportSettings) -> np.ndarray:
    """Log-probabilities float32 [N, K] as they are written: renormalised if asked, ABSENT where there is no entry."""
    values = entries.log_probs.log_softmax(1) if settings.renormalise else entries.log_probs
    return torch.where(entries.known, values, ABSENT).numpy()


def _packed_table(store: LabelStore, rows: Sequence[Row], settings: ExportSettings) -> pa.Table:
    entries = join_ranked([row.entries for row in rows])
    counts = np.array([len(row.entries.ids) for row in rows])
    values = np.ascontiguousarray(_log_probs(entries, settings)).view(np.uint8)
    bits = max(1, (store.num_classes - 1).bit_length())
    columns = {
        "input_ids": [store.tokens(row.number).astype(np.uint64) for row in rows],
        "compressed_logprobs": _nested(counts, values),
        "bytepacked_indices": _nested(counts, distillkit.pack_bits(entries.ids.numpy(), bits)),
    }
    schema = distillkit.SCHEMA
    return pa.table([pa.array(columns[entry.name], entry.type) for entry in schema], schema=schema)
