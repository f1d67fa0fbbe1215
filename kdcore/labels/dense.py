"""Codec `dense`: all V log-probabilities, as float16 or in 8 bits (`eight_bits`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.checks import check_outputs, renormalise, row_chunks
from kdcore.labels.codec import Encoded
from kdcore.labels.eight_bits import MAX_LOG_SUM_8BIT, from_bytes, to_bytes
from kdcore.labels.fixed import FixedWidth
from kdcore.labels.soft_labels import DenseLabels

__all__ = ["DenseCodec"]


@dataclass(frozen=True)
class DenseCodec(FixedWidth):
    """One column, `log_probs` float16 or uint8, V values a label."""

    num_classes: int
    bits: int = 16

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise LabelError(f"dense labels take 8 or 16 bits a class, got {self.bits}")

    @property
    def name(self) -> str:
        """`dense`."""
        return "dense"

    def spec(self) -> dict[str, Any]:
        """Type, num_classes and bits."""
        return {"type": self.name, "num_classes": self.num_classes, "bits": self.bits}

    def fields(self) -> list[pa.Field]:
        """One flat list a row."""
        return [pa.field("log_probs", pa.list_(pa.uint8() if self.bits == 8 else pa.float16()))]

    def widths(self) -> dict[str, int]:
        """V log-probabilities."""
        return {"log_probs": self.num_classes}

    def bytes_per_label(self) -> float:
        """One or two bytes a class."""
        return self.bits / 8 * self.num_classes

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """Logits [N, V] into one flat column; nothing is random. LabelError if they are not valid logits."""
        check_outputs(outputs, self.num_classes, self.name)
        parts = [
            self._stored(torch.log_softmax(outputs[rows].float(), dim=1)).cpu().numpy().ravel()
            for rows in row_chunks(outputs.shape[0], self.num_classes)
        ]
        return {"log_probs": np.concatenate([np.empty(0, np.uint8 if self.bits == 8 else np.float16), *parts])}

    def _stored(self, log_probs: Tensor) -> Tensor:
        return to_bytes(log_probs) if self.bits == 8 else log_probs.half()

    def decode_columns(self, columns: Mapping[str, np.ndarray], num_labels: int) -> DenseLabels:
        """A flat column into labels that sum to one."""
        values = columns["log_probs"].reshape(num_labels, self.num_classes)
        if self.bits == 8:
            return DenseLabels(renormalise(from_bytes(torch.from_numpy(values)), MAX_LOG_SUM_8BIT))
        return DenseLabels(renormalise(torch.from_numpy(values).float()))
