"""The columns of a shard, and rows turned into record batches."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.config.data import Kind
from kdcore.errors import CorruptShard, StoreError
from kdcore.identity import KEY_BYTES, canonical_json
from kdcore.labels import Codec
from kdcore.labels.views.spec import ViewSpec

__all__ = [
    "FORMAT",
    "LABEL_SPANS",
    "METADATA_KEY",
    "TOKEN_LOG_PROBS",
    "VIEWS",
    "ShardRow",
    "batches_from_rows",
    "check_format",
    "image_schema",
    "packed_metadata",
    "schema_metadata",
    "store_schema",
    "text_schema",
    "token_dtype",
    "views_of_schema",
]

FORMAT = 2
TOKEN_LOG_PROBS = "token_log_probs"
"""The column of the teacher's log-probability of each next token."""
LABEL_SPANS = "label_spans"
"""The column of which next tokens have a label, in a store with a mask."""
VIEWS = "views"
"""The column of the packed parameters of views."""
METADATA_KEY = b"kdcore"
_BATCH_BYTES = 32 << 20
_TARGET = pa.field("target", pa.int32())


@dataclass(frozen=True)
class ShardRow:
    """One labelled sample: text has `tokens` [T] and N labels, an image has `target` (or None) and one label, or N.

    `columns` are the codec's flat columns and, for text, `token_log_probs` [N]; N is T - 1 unless `label_spans`
    [S, 2], in stores with a mask, say which positions are labelled (see kdcore.labels.spans). An image of a store with
    views has a label for each of its N, whose packed parameters are `views` uint8.
    """

    key: bytes
    name: str
    occurrences: int
    columns: Mapping[str, np.ndarray] = field(repr=False)
    tokens: np.ndarray | None = field(default=None, repr=False)
    target: int | None = None

    @property
    def nbytes(self) -> int:
        """Payload bytes of the arrays."""
        tokens = 0 if self.tokens is None else self.tokens.nbytes
        return tokens + sum(column.nbytes for column in self.columns.values())


def token_dtype(vocabulary: int) -> np.dtype[Any]:
    """The stored type of a token id."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.int32)


def text_schema(codec: Codec, vocabulary: int, masked: bool = False) -> pa.Schema:
    """Columns of a text shard; `vocabulary` bounds the token ids, `masked` if not every token has a label."""
    tokens = pa.field("tokens", pa.list_(pa.from_numpy_dtype(token_dtype(vocabulary))))
    spans = [pa.field(LABEL_SPANS, pa.list_(pa.int32()))] if masked else []
    fields = codec.fields()
    if TOKEN_LOG_PROBS not in [entry.name for entry in fields]:  # a codec may have them as its own
        fields.append(pa.field(TOKEN_LOG_PROBS, pa.list_(pa.float16())))
    return _schema("text", codec, [tokens, *spans, *fields])


def image_schema(codec: Codec, views: Mapping[str, Any] | None = None) -> pa.Schema:
    """Columns of an image shard; `views` are those of its identity (`ViewSpec.to_json`), where it has some."""
    packed = [] if views is None else [pa.field(VIEWS, pa.list_(pa.uint8()))]
    return _schema("image", codec, [_TARGET, *packed, *codec.fields()], views)


def store_schema(
    kind: str,
    codec: Codec,
    vocabulary: int | None = None,
    masked: bool = False,
    views: Mapping[str, Any] | None = None,
) -> pa.Schema:
    """The schema of a kind; `vocabulary` of a text store is the codec's class count unless given."""
    if kind == "text":
        bound = codec.num_classes if vocabulary is None else vocabulary
        if bound < 1:
            raise StoreError(
                f"codec '{codec.name}' does not say how many token ids there are: give the vocabulary (in a store, as "
                f"`vocabulary` of its identity)"
            )
        return text_schema(codec, bound, masked)
    if kind == "image":
        return image_schema(codec, views)
    if kind == "classified_text":
        return _schema(kind, codec, [_TARGET, *codec.fields()])
    raise StoreError(f"a store holds 'text', 'image' or 'classified_text' labels, got kind {kind!r}")


def _schema(kind: Kind, codec: Codec, fields: Sequence[pa.Field], views: Mapping[str, Any] | None = None) -> pa.Schema:
    first = [
        pa.field("key", pa.binary(KEY_BYTES)),
        pa.field("name", pa.string()),
        pa.field("occurrences", pa.int32()),
    ]
    return pa.schema([*first, *fields], metadata=packed_metadata(kind, codec, views))


def packed_metadata(kind: str, codec: Codec, views: Mapping[str, Any] | None, **more: str) -> dict[bytes, bytes]:
    """The schema metadata of a file of a store."""
    metadata = {"format": FORMAT, "kind": kind, "codec": codec.spec(), **more}
    return {METADATA_KEY: canonical_json(metadata if views is None else {**metadata, "views": views}).encode()}


def views_of_schema(schema: pa.Schema) -> ViewSpec | None:
    """What the views of the rows are; None where a row has one label, of the image as it is."""
    views = schema_metadata(schema).get("views")
    return None if views is None else ViewSpec.from_json(views, "the schema of a shard")


def schema_metadata(schema: pa.Schema) -> dict[str, Any]:
    """Format, kind and codec spec that a shard carries; CorruptShard if it carries none."""
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise CorruptShard("the file has no 'kdcore' entry in its schema metadata: not a shard of a label store")
    value = json.loads(raw)
    check_format(value, "the schema of a shard")
    return value


def check_format(value: Any, where: str) -> None:
    """CorruptShard unless `value` is an object of this version's format."""
    found = value.get("format") if isinstance(value, dict) else type(value).__name__
    if found == 1:
        raise CorruptShard(f"{where} is of format 1, which was never released and is not read: label into a new path")
    if found != FORMAT:
        raise CorruptShard(f"{where} must be of format {FORMAT}, got {found!r}: another version of kdcore wrote it")


def batches_from_rows(schema: pa.Schema, rows: Iterable[ShardRow]) -> Iterator[pa.RecordBatch]:
    """Record batches of about 32 MiB, in the order of the rows."""
    pending: list[ShardRow] = []
    size = 0
    for row in rows:
        if pending and size + row.nbytes > _BATCH_BYTES:
            yield _batch(schema, pending)
            pending, size = [], 0
        pending.append(row)
        size += row.nbytes
    if pending:
        yield _batch(schema, pending)


def _batch(schema: pa.Schema, rows: Sequence[ShardRow]) -> pa.RecordBatch:
    scalars: dict[str, list[Any]] = {
        "key": [row.key for row in rows],
        "name": [row.name for row in rows],
        "occurrences": [row.occurrences for row in rows],
        "target": [row.target for row in rows],
    }
    columns = [
        pa.array(scalars[entry.name], entry.type) if entry.name in scalars else _list_column(entry, rows)
        for entry in schema
    ]
    return pa.record_batch(columns, schema=schema)


def _list_column(entry: pa.Field, rows: Sequence[ShardRow]) -> pa.ListArray:
    parts = [_values(row, entry.name) for row in rows]
    lengths = np.array([0, *(part.size for part in parts)], np.int64)
    offsets = np.cumsum(lengths)
    if offsets[-1] > np.iinfo(np.int32).max:
        raise StoreError(
            f"one row may hold 2^31 - 1 values of column '{entry.name}', '{rows[0].name}' has {offsets[-1]}: "
            f"cut the document, or set labels.codec: {{type: topk}}"
        )
    dtype = entry.type.value_type.to_pandas_dtype()
    values = np.concatenate([np.empty(0, dtype), *(part.reshape(-1).astype(dtype, copy=False) for part in parts)])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values), type=entry.type)


def _values(row: ShardRow, column: str) -> np.ndarray:
    values = row.tokens if column == "tokens" else row.columns.get(column)
    if values is None:
        raise StoreError(f"row '{row.name}' has no column '{column}'; it has {sorted(row.columns)}")
    return values
