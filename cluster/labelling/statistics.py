"""How sure and how right the teacher is: measured by replicas on the labels they write, summed by the driver."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.errors import LabelError
from kdcore.labels import Codec, RowView, best_class
from kdcore.store import Receipt
from kdcore.store.columns import hard_labels, labels_per_row, list_offsets, list_values
from kdcore.store.views import column_views, row_view

__all__ = ["Statistics"]

# Of each shard; to decode all labels would cost replicas time, and a store has many shards.
_MEASURED_LABELS = 20_000
_CANARY_LABELS = 20_000


@dataclass
class Statistics:
    """Sums over labels: of the shard that a replica writes, or of the receipts that the driver has."""

    kind: str
    codec: Codec
    vocabulary: int
    labels: int = 0
    agreed: int = 0
    negative_log_likelihood: float = 0.0

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass the batches of a shard on, and measure their first labels: whole rows, until there are enough."""
        room = _MEASURED_LABELS
        for batch in batches:
            counts = labels_per_row(batch)
            rows = int(np.searchsorted(np.cumsum(counts) - counts, room)) if room > 0 else 0
            if rows:
                self._add_batch(batch.slice(0, rows))
            room -= int(counts.sum())
            yield batch

    def noted(self, receipt: Receipt) -> Receipt:
        """The receipt with the sums in it."""
        nll = self.negative_log_likelihood
        return replace(receipt, measured=self.labels, agreed=self.agreed, negative_log_likelihood=nll)

    def add(self, receipt: Receipt) -> None:
        """Add what a replica measured; LabelError when the teacher knows less than nothing."""
        self.labels += receipt.measured
        self.agreed += receipt.agreed
        self.negative_log_likelihood += receipt.negative_log_likelihood
        if self.labels >= _CANARY_LABELS:
            self.check()

    def check(self) -> None:
        """LabelError when the text is no likelier under the teacher than under a uniform guess."""
        uniform = math.log(self.vocabulary)
        if self.kind != "text" or not self.labels or self._nll() < uniform:
            return
        raise LabelError(
            f"the teacher's mean loss on its input must be below that of a uniform guess, {uniform:.2f} = "
            f"log({self.vocabulary}), but it is {self._nll():.2f} over {self.labels:,} tokens: such labels "
            "teach nothing. Likely teacher.tokenizer is not this teacher's, or its weights were not trained or do not "
            "belong to its config. The finished units stay in the store; label with another teacher into another path"
        )

    def summary(self) -> dict[str, Any]:
        """Means as JSON; `measured_labels` says over how many labels."""
        share = self.agreed / self.labels if self.labels else None
        result: dict[str, Any] = {"measured_labels": self.labels, "teacher_top1_agreement_with_target": share}
        if self.kind == "text" and self.labels:
            result["teacher_mean_nll"] = self._nll()
        return result

    def _nll(self) -> float:
        return self.negative_log_likelihood / self.labels

    def _add_batch(self, batch: pa.RecordBatch) -> None:
        targets, known = _targets(batch)
        if self.codec.num_classes:
            views = self._views(batch)
            labels = self.codec.decode(views, [0] * len(views), [view.num_labels for view in views])
            self.agreed += int((best_class(labels).numpy() == targets)[known].sum())
        self.labels += int(known.sum())
        if self.kind == "text":
            self.negative_log_likelihood -= float(_values(batch, "token_log_probs").astype(np.float64).sum())

    def _views(self, batch: pa.RecordBatch) -> list[RowView]:
        columns, names = column_views(batch), [field.name for field in self.codec.fields()]
        counts = labels_per_row(batch)
        return [row_view(columns, row, names, int(count)) for row, count in enumerate(counts)]


def _values(batch: pa.RecordBatch, column: str) -> np.ndarray:
    offsets = list_offsets(batch, column)
    return list_values(batch, column)[offsets[0] : offsets[-1]]


def _targets(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Hard labels int64 [N], and which of them are known."""
    if "tokens" not in batch.schema.names:
        column = batch.column("target")
        values = np.asarray(column.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
        values = np.repeat(values, labels_per_row(batch))  # of the image, whatever it is mixed with
        return values, values >= 0
    targets = hard_labels(batch)
    return targets, np.ones(len(targets), bool)
