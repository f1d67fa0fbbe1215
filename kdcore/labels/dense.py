"""Codec `dense`: all V log-probabilities as float16."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.checks import check_columns, check_logits, renormalise, row_chunks
from kdcore.labels.soft_labels import DenseLabels

__all__ = ["DenseCodec"]


@dataclass(frozen=True)
class DenseCodec:
    """One column, `log_probs` float16, V values a label."""

    num_classes: int

    @property
    def name(self) -> str:
        """`dense`."""
        return "dense"

    def spec(self) -> dict[str, Any]:
        """Type and num_classes."""
        return {"type": self.name, "num_classes": self.num_classes}

    def fields(self) -> list[pa.Field]:
        """One flat list a row."""
        return [pa.field("log_probs", pa.list_(pa.float16()))]

    def widths(self) -> dict[str, int]:
        """V log-probabilities."""
        return {"log_probs": self.num_classes}

    def bytes_per_label(self) -> float:
        """Two bytes a class."""
        return 2.0 * self.num_classes

    def encode(self, logits: Tensor) -> dict[str, np.ndarray]:
        """Logits [N, V] into one flat column; LabelError if they are not valid logits."""
        if logits.ndim == 2 and logits.shape[1] != self.num_classes:
            raise LabelError(
                f"codec 'dense' was made for {self.num_classes} classes, the logits have {logits.shape[1]}"
            )
        check_logits(logits, "the batch to encode")
        parts = [
            torch.log_softmax(logits[rows].float(), dim=1).half().cpu().numpy().ravel()
            for rows in row_chunks(logits.shape[0], self.num_classes)
        ]
        return {"log_probs": np.concatenate([np.empty(0, np.float16), *parts])}

    def decode(self, columns: Mapping[str, np.ndarray], num_labels: int) -> DenseLabels:
        """A flat column into labels that sum to one."""
        check_columns(columns, self.widths(), num_labels)
        values = torch.from_numpy(columns["log_probs"].astype(np.float32)).view(num_labels, self.num_classes)
        return DenseLabels(renormalise(values))
