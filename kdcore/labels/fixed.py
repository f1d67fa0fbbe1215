"""Codecs whose labels all take the same number of values: flat columns, sliced by multiplication."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from kdcore.errors import LabelError
from kdcore.labels.codec import Encoded, RowView
from kdcore.labels.soft_labels import SoftLabels

__all__ = ["FixedWidth"]


class FixedWidth(ABC):
    """A label takes `widths()[column]` values of each column; encoded labels are the columns already."""

    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Values per label, of each column."""

    @abstractmethod
    def decode_columns(self, columns: Mapping[str, np.ndarray], num_labels: int) -> SoftLabels:
        """Labels of flat columns of `num_labels` labels."""

    def state(self) -> bytes | None:
        """Nothing is learnt."""
        return None

    def pack(self, rows: Sequence[Encoded], targets: Sequence[np.ndarray | None]) -> list[dict[str, np.ndarray]]:
        """The arrays as they are."""
        return [dict(row) for row in rows]

    def misfit(self, lengths: Mapping[str, np.ndarray], num_labels: np.ndarray) -> int | None:
        """The first row with another number of values than its labels take."""
        wrong = np.zeros(len(num_labels), bool)
        for column, width in self.widths().items():
            wrong |= lengths[column] != num_labels * width
        return int(wrong.argmax()) if wrong.any() else None

    def decode(self, rows: Sequence[RowView], starts: Sequence[int], stops: Sequence[int]) -> SoftLabels:
        """Slices of the rows' columns, decoded at once."""
        spans = list(zip(rows, starts, stops, strict=True))
        columns = {
            name: np.concatenate([row.columns[name][start * width : stop * width] for row, start, stop in spans])
            if spans
            else np.empty(0, np.float32)
            for name, width in self.widths().items()
        }
        num_labels = sum(stop - start for _, start, stop in spans)
        for name, width in self.widths().items():
            if columns[name].size != num_labels * width:
                raise LabelError(
                    f"column '{name}' must hold {num_labels} labels x {width} values, it holds {columns[name].size}: "
                    "the shard does not belong to this codec"
                )
        return self.decode_columns(columns, int(num_labels))
