"""Columns of a record batch as numpy arrays, and what must hold of them before they are sliced."""

import numpy as np
import pyarrow as pa

from kdcore.errors import CorruptShard, LabelError
from kdcore.labels.spans import positions_of
from kdcore.labels.views import Views, unpack_views
from kdcore.labels.views.fields import PARTNER_BITS
from kdcore.store.schema import LABEL_SPANS, VIEWS, views_of_schema

__all__ = [
    "batch_views",
    "check_batch",
    "hard_labels",
    "key_prefixes",
    "key_words",
    "labels_per_row",
    "list_offsets",
    "list_values",
]


def check_batch(batch: pa.RecordBatch, where: str) -> None:
    """Offsets that rise within the values, spans within the tokens, views of the policy, no nulls: every later slice
    is within bounds.
    """
    for column, entry in zip(batch.columns, batch.schema, strict=True):
        if column.null_count and entry.name != "target":
            raise CorruptShard(f"{where}: column '{entry.name}' has nulls")
        if pa.types.is_list(entry.type):
            offsets = list_offsets(batch, entry.name)
            falls = bool((np.diff(offsets) < 0).any())
            if len(offsets) and (falls or offsets[0] < 0 or offsets[-1] > len(column.values)):
                raise CorruptShard(f"{where}: offsets of column '{entry.name}' are not valid")
            if column.values.null_count:
                raise CorruptShard(f"{where}: column '{entry.name}' has nulls in its lists")
    if LABEL_SPANS in batch.schema.names:
        _check_spans(batch, where)
    if VIEWS in batch.schema.names:
        try:
            batch_views(batch)
        except LabelError as error:
            raise CorruptShard(f"{where}: column '{VIEWS}': {error}") from error


def _check_spans(batch: pa.RecordBatch, where: str) -> None:
    """Pairs that rise, are no neighbours and end before the row's last token."""
    offsets = list_offsets(batch, LABEL_SPANS)
    if (offsets % 2 != offsets[:1] % 2).any():
        raise CorruptShard(f"{where}: column '{LABEL_SPANS}' must have pairs of first and last label, a row has a half")
    firsts, lasts = list_values(batch, LABEL_SPANS)[offsets[0] : offsets[-1]].astype(np.int64).reshape(-1, 2).T
    row = np.repeat(np.arange(batch.num_rows), np.diff(offsets) // 2)
    ends = np.diff(list_offsets(batch, "tokens"))[row] - 2
    apart = (firsts[1:] > lasts[:-1] + 1) | (row[1:] != row[:-1])
    if not (apart.all() and (firsts >= 0).all() and (firsts <= lasts).all() and (lasts <= ends).all()):
        raise CorruptShard(
            f"{where}: column '{LABEL_SPANS}' must have runs of labels that rise, do not touch and end before the last "
            "token"
        )


def labels_per_row(batch: pa.RecordBatch) -> np.ndarray:
    """Labels of each row, int64 [rows]: one of an image, or of each view; of a text one a next token, or its spans'."""
    if VIEWS in batch.schema.names:
        spec = views_of_schema(batch.schema)
        assert spec is not None
        return np.full(batch.num_rows, spec.per_image, np.int64)
    if "tokens" not in batch.schema.names:
        return np.ones(batch.num_rows, np.int64)
    if LABEL_SPANS not in batch.schema.names:
        return np.maximum(np.diff(list_offsets(batch, "tokens")).astype(np.int64) - 1, 0)
    offsets = list_offsets(batch, LABEL_SPANS).astype(np.int64)
    spans = list_values(batch, LABEL_SPANS)[offsets[0] : offsets[-1]].astype(np.int64).reshape(-1, 2)
    before = np.append(0, np.cumsum(spans[:, 1] - spans[:, 0] + 1))
    return np.diff(before[(offsets - offsets[0]) // 2])


def hard_labels(batch: pa.RecordBatch) -> np.ndarray:
    """The next token of every label of a text batch, int64 [labels], row after row."""
    offsets = list_offsets(batch, "tokens").astype(np.int64)
    tokens = list_values(batch, "tokens")
    if LABEL_SPANS not in batch.schema.names:
        follows = np.ones(offsets[-1] - offsets[0], bool)
        follows[(offsets[:-1] - offsets[0])[np.diff(offsets) > 0]] = False  # a document's first is nobody's target
        return tokens[offsets[0] : offsets[-1]][follows].astype(np.int64)
    runs = list_offsets(batch, LABEL_SPANS)
    spans = list_values(batch, LABEL_SPANS)[runs[0] : runs[-1]].astype(np.int64).reshape(-1, 2)
    return tokens[positions_of(spans + np.repeat(offsets[:-1] + 1, np.diff(runs) // 2)[:, None])].astype(np.int64)


def batch_views(batch: pa.RecordBatch) -> Views:
    """The parameters of all views of a batch that has them, row after row; LabelError where they cannot be read."""
    spec = views_of_schema(batch.schema)
    assert spec is not None
    offsets = list_offsets(batch, VIEWS).astype(np.int64)
    flat = list_values(batch, VIEWS)[offsets[0] : offsets[-1]] if batch.num_rows else np.empty(0, np.uint8)
    return unpack_views(spec.policy, flat, np.diff(offsets))


def list_offsets(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """Offsets [rows + 1] int32 of a list column, a view."""
    return batch.column(column).offsets.to_numpy()


def list_values(batch: pa.RecordBatch, column: str) -> np.ndarray:
    """All values of a list column, a view."""
    return batch.column(column).values.to_numpy(zero_copy_only=True)


def key_words(batch: pa.RecordBatch) -> np.ndarray:
    """The 16-byte keys of a batch, uint64 [rows, 2], a copy."""
    data = batch.column("key").buffers()[1]
    words = np.frombuffer(data, np.uint64, count=2 * batch.num_rows) if batch.num_rows else np.empty(0, np.uint64)
    return words.reshape(-1, 2).copy()


def key_prefixes(words: np.ndarray) -> np.ndarray:
    """The first 40 bits of keys uint64 [n, 2] as in `key_words`, by which a view names its partner, uint64 [n]."""
    return words[:, 0].astype("<u8").byteswap() >> np.uint64(64 - PARTNER_BITS)
