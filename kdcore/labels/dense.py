"""Codec `dense`: all V log-probabilities, as float16 or in 8 bits.

In 8 bits a log-probability l is kept as the byte round(53 sqrt(-l)), capped at 254; 255 is probability zero. The
square root spends the steps where probabilities are large: a probability is off by at most 1.9 % at 1/e, 5 % at 1e-3
and 9 % at 1e-9, the cap is at e^-23. Readers renormalise.
"""

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
from kdcore.labels.fixed import FixedWidth
from kdcore.labels.soft_labels import DenseLabels

__all__ = ["DenseCodec"]

_STEPS_PER_ROOT = 53.0
_ZERO = 255
_MAX_LOG_SUM_8BIT = 0.1


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
        if self.bits == 16:
            return log_probs.half()
        steps = (log_probs.neg().clamp(min=0).sqrt() * _STEPS_PER_ROOT).round().clamp(max=_ZERO - 1)
        return torch.where(torch.isneginf(log_probs), float(_ZERO), steps).to(torch.uint8)

    def decode_columns(self, columns: Mapping[str, np.ndarray], num_labels: int) -> DenseLabels:
        """A flat column into labels that sum to one."""
        values = torch.from_numpy(columns["log_probs"].astype(np.float32)).view(num_labels, self.num_classes)
        if self.bits == 16:
            return DenseLabels(renormalise(values))
        log_probs = torch.where(values == _ZERO, float("-inf"), -((values / _STEPS_PER_ROOT) ** 2))
        return DenseLabels(renormalise(log_probs, _MAX_LOG_SUM_8BIT))
