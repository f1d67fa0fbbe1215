"""Codec `topk`: the k most probable classes, and all the others as one tail cell.

Biased: the loss cannot see how the teacher divides the tail. What it keeps is measured on a probe and written in the
manifest. The tail's mass is exact (a logsumexp over the other classes), never one minus a rounded sum; but of a teacher
behind an endpoint the tail is all that the endpoint did not return, one minus the mass of what it did.
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
from kdcore.labels.soft_labels import TopKLabels

__all__ = ["TopKCodec"]

_MAX_EXCESS = 1e-3  # what rounding in float16 on the other side may add to a sum of probabilities


@dataclass(frozen=True)
class TopKCodec(FixedWidth):
    """`ids` uint16 (V <= 65,536) or int32, `log_probs` float16, `tail_log_prob` float16; entries by falling mass."""

    k: int
    num_classes: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.num_classes:
            raise LabelError(f"k must be between 1 and num_classes ({self.num_classes}), got {self.k}")

    @property
    def name(self) -> str:
        """`topk`."""
        return "topk"

    def spec(self) -> dict[str, Any]:
        """Type, k and num_classes."""
        return {"type": self.name, "k": self.k, "num_classes": self.num_classes}

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """The stored type of a class id."""
        return np.dtype(np.uint16 if self.num_classes <= 1 << 16 else np.int32)

    def fields(self) -> list[pa.Field]:
        """Three flat lists a row."""
        half = pa.list_(pa.float16())
        ids = pa.list_(pa.from_numpy_dtype(self.id_dtype))
        return [pa.field("ids", ids), pa.field("log_probs", half), pa.field("tail_log_prob", half)]

    def widths(self) -> dict[str, int]:
        """k ids, k log-probabilities, one tail."""
        return {"ids": self.k, "log_probs": self.k, "tail_log_prob": 1}

    def bytes_per_label(self) -> float:
        """Bytes of the three columns."""
        return float(self.k * (self.id_dtype.itemsize + 2) + 2)

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """Logits [N, V] into flat columns; nothing is random. LabelError if they are not valid logits."""
        check_outputs(outputs, self.num_classes, self.name)
        parts = [self._encode(outputs[rows].float()) for rows in row_chunks(outputs.shape[0], self.num_classes)]
        types = {"ids": self.id_dtype, "log_probs": np.float16, "tail_log_prob": np.float16}
        empty = {name: np.empty(0, dtype) for name, dtype in types.items()}
        return {
            name: np.concatenate([empty[name], *(part[name].astype(dtype).ravel() for part in parts)])
            for name, dtype in types.items()
        }

    def encode_entries(self, ids: np.ndarray, log_probs: np.ndarray) -> Encoded:
        """Classes [N, k], by falling mass, and their log-probabilities into flat columns, where no logits are at hand.

        The tail is one minus their sum here: its mass is off by the rounding of the k values, not of the stored ones.
        LabelError if they are not k different classes a row whose probabilities sum to at most one.
        """
        wanted = (len(ids), self.k)
        if ids.shape != wanted or log_probs.shape != wanted:
            raise LabelError(f"entries of codec 'topk' must be {list(wanted)}, got {ids.shape} and {log_probs.shape}")
        repeated = bool((np.diff(np.sort(ids, axis=1), axis=1) == 0).any())
        if ids.size and (repeated or ids.min() < 0 or ids.max() >= self.num_classes):
            raise LabelError(f"entries of codec 'topk' must be different classes below {self.num_classes} in each row")
        mass = np.exp(log_probs.astype(np.float64)).sum(axis=1)
        if not (mass <= 1 + _MAX_EXCESS).all():  # NaN is not
            raise LabelError(f"the probabilities of a label must sum to at most one, got {float(mass.max())}")
        with np.errstate(divide="ignore", over="ignore"):
            tail = np.log1p(-np.minimum(mass, 1.0)).astype(np.float16)
            halves = log_probs.astype(np.float16)
        return {"ids": ids.astype(self.id_dtype).ravel(), "log_probs": halves.ravel(), "tail_log_prob": tail}

    def _encode(self, logits: Tensor) -> dict[str, np.ndarray]:
        log_probs = torch.log_softmax(logits, dim=1)
        top, ids = log_probs.topk(self.k, dim=1)
        tail = torch.logsumexp(log_probs.scatter_(1, ids, float("-inf")), dim=1)
        return {"ids": ids.cpu().numpy(), "log_probs": _half(top), "tail_log_prob": _half(tail)}

    def decode_columns(self, columns: Mapping[str, np.ndarray], num_labels: int) -> TopKLabels:
        """Flat columns into labels whose k + 1 cells sum to one."""
        ids = torch.from_numpy(columns["ids"].astype(np.int64)).view(num_labels, self.k)
        if num_labels and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_classes:
            raise LabelError(
                f"stored class ids must be below {self.num_classes}, found {int(ids.max())}: altered shard"
            )
        top = torch.from_numpy(columns["log_probs"].astype(np.float32)).view(num_labels, self.k)
        tail = torch.from_numpy(columns["tail_log_prob"].astype(np.float32)).view(num_labels, 1)
        cells = renormalise(torch.cat([top, tail], dim=1))
        return TopKLabels(ids, cells[:, :-1].contiguous(), cells[:, -1].contiguous(), self.num_classes)


def _half(values: Tensor) -> np.ndarray:
    """float16 on the host; a log-probability below -65,504 becomes -inf, which is what it means."""
    return values.half().cpu().numpy()
