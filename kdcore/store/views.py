"""Rows of a mapped record batch as numpy views, nothing copied."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kdcore.labels import RowView
from kdcore.labels.spans import positions_of
from kdcore.store.columns import list_offsets, list_values
from kdcore.store.schema import LABEL_SPANS

__all__ = ["Columns", "column_views", "row_view"]

Columns = dict[str, tuple[np.ndarray, np.ndarray]]
"""Offsets and values of each list column."""


def column_views(batch: pa.RecordBatch) -> Columns:
    """Offsets [rows + 1] int32 and all values of each list column."""
    names = [entry.name for entry in batch.schema if pa.types.is_list(entry.type)]
    return {name: (list_offsets(batch, name), list_values(batch, name)) for name in names}


def row_view(columns: Columns, row: int, names: Sequence[str], num_labels: int) -> RowView:
    """Row `row` of a batch: its codec's columns `names`, and a text's (labelled) next tokens as its hard labels."""
    targets = None
    if "tokens" in columns:
        targets = _of_row(columns, "tokens", row)[1:]
        if LABEL_SPANS in columns:
            targets = targets[positions_of(_of_row(columns, LABEL_SPANS, row))]
    return RowView({name: _of_row(columns, name, row) for name in names}, num_labels, targets)


def _of_row(columns: Columns, name: str, row: int) -> np.ndarray:
    offsets, values = columns[name]
    return values[offsets[row] : offsets[row + 1]]
