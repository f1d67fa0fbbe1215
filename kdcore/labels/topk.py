"""Codec `topk`: the k most probable classes, and all the others as one tail cell.

Biased: the loss cannot see how the teacher divides the tail. What it keeps is measured on a probe and written in the
manifest. The tail's mass is exact (a logsumexp over the other classes), never one minus a rounded sum; but of a teacher
behind an endpoint the tail is all that the endpoint did not return, one minus the mass of what it did.

In 8 bits the ids are a set (`id_sets`), log-probabilities and tail are bytes (`eight_bits`, where their error is told):
22 bytes for 10 of 1,000 classes, instead of 42. The order by mass is that of the bytes, equal ones by rising id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.checks import MAX_LOG_SUM, check_outputs, log_sums, row_chunks
from kdcore.labels.codec import Encoded
from kdcore.labels.eight_bits import MAX_LOG_SUM_8BIT, from_bytes, to_bytes
from kdcore.labels.fixed import FixedWidth
from kdcore.labels.id_sets import bytes_of_ids, pack_ids, unpack_ids
from kdcore.labels.soft_labels import TopKLabels

__all__ = ["TopKCodec"]

_MAX_EXCESS = 1e-3  # what rounding in float16 on the other side may add to a sum of probabilities


@dataclass(frozen=True)
class TopKCodec(FixedWidth):
    """`ids` uint16 (V <= 65,536) or int32, `log_probs` float16, `tail_log_prob` float16; entries by falling mass.

    In 8 bits all three are uint8, and entries lie by rising id.
    """

    k: int
    num_classes: int
    bits: int = 16

    def __post_init__(self) -> None:
        if self.bits not in (8, 16):
            raise LabelError(f"the log-probabilities of topk labels take 8 or 16 bits, got {self.bits}")
        if not 1 <= self.k <= self.num_classes:
            raise LabelError(f"k must be between 1 and num_classes ({self.num_classes}), got {self.k}")

    @property
    def name(self) -> str:
        """`topk`."""
        return "topk"

    def spec(self) -> dict[str, Any]:
        """Type, k and num_classes; and bits where they are 8."""
        bits = {} if self.bits == 16 else {"bits": self.bits}
        return {"type": self.name, "k": self.k, "num_classes": self.num_classes, **bits}

    @property
    def id_dtype(self) -> np.dtype[Any]:
        """The stored type of a class id, or of the bytes of a set of them."""
        if self.bits == 8:
            return np.dtype(np.uint8)
        return np.dtype(np.uint16 if self.num_classes <= 1 << 16 else np.int32)

    def fields(self) -> list[pa.Field]:
        """Three flat lists a row."""
        values = pa.list_(pa.uint8() if self.bits == 8 else pa.float16())
        ids = pa.list_(pa.from_numpy_dtype(self.id_dtype))
        return [pa.field("ids", ids), pa.field("log_probs", values), pa.field("tail_log_prob", values)]

    def widths(self) -> dict[str, int]:
        """k ids (in 8 bits the bytes of their set), k log-probabilities, one tail."""
        ids = self.k if self.bits == 16 else bytes_of_ids(self.k, self.num_classes)
        return {"ids": ids, "log_probs": self.k, "tail_log_prob": 1}

    def bytes_per_label(self) -> float:
        """Bytes of the three columns."""
        return self.widths()["ids"] * self.id_dtype.itemsize + (self.k + 1) * self.bits / 8

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """Logits [N, V] into flat columns; nothing is random. LabelError if they are not valid logits."""
        check_outputs(outputs, self.num_classes, self.name)
        parts = [self._encode(outputs[rows].float()) for rows in row_chunks(outputs.shape[0], self.num_classes)]
        empty = {entry.name: np.empty(0, entry.type.value_type.to_pandas_dtype()) for entry in self.fields()}
        return {
            name: np.concatenate([none, *(part[name].astype(none.dtype).ravel() for part in parts)])
            for name, none in empty.items()
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
            tail = np.log1p(-np.minimum(mass, 1.0))
            if self.bits == 8:
                values = (torch.from_numpy(each.astype(np.float32)) for each in (log_probs, tail))
                return {name: column.ravel() for name, column in self._bytes(torch.from_numpy(ids), *values).items()}
            tail, halves = tail.astype(np.float16), log_probs.astype(np.float16)
        return {"ids": ids.astype(self.id_dtype).ravel(), "log_probs": halves.ravel(), "tail_log_prob": tail}

    def _encode(self, logits: Tensor) -> dict[str, np.ndarray]:
        log_probs = torch.log_softmax(logits, dim=1)
        top, ids = log_probs.topk(self.k, dim=1)
        tail = torch.logsumexp(log_probs.scatter_(1, ids, float("-inf")), dim=1)
        if self.bits == 8:
            return self._bytes(ids, top, tail)
        return {"ids": ids.cpu().numpy(), "log_probs": _half(top), "tail_log_prob": _half(tail)}

    def _bytes(self, ids: Tensor, top: Tensor, tail: Tensor) -> dict[str, np.ndarray]:
        rising, order = ids.sort(dim=1)
        packed = pack_ids(rising.cpu().numpy(), self.num_classes)
        log_probs = to_bytes(top.gather(1, order)).cpu().numpy()
        return {"ids": packed, "log_probs": log_probs, "tail_log_prob": to_bytes(tail).cpu().numpy()}

    def decode_columns(self, columns: Mapping[str, np.ndarray], num_labels: int) -> TopKLabels:
        """Flat columns into labels whose k + 1 cells sum to one."""
        if self.bits == 8:
            return self._from_bytes(columns, num_labels)
        stored = columns["ids"]
        if stored.size and not 0 <= int(stored.min()) <= int(stored.max()) < self.num_classes:
            raise LabelError(f"stored class ids must be below {self.num_classes}, found {stored.max()}: altered shard")
        ids = torch.from_numpy(stored.astype(np.int64)).view(num_labels, self.k)
        # Widened by torch: numpy takes float16 one at a time.
        top = torch.from_numpy(columns["log_probs"]).float().view(num_labels, self.k)
        tail = torch.from_numpy(columns["tail_log_prob"]).float().view(num_labels, 1)
        return self._labels(ids, top, tail)

    def _from_bytes(self, columns: Mapping[str, np.ndarray], num_labels: int) -> TopKLabels:
        columns = {name: values.astype(np.uint8, copy=False) for name, values in columns.items()}
        packed = columns["ids"].reshape(num_labels, self.widths()["ids"])
        ids = torch.from_numpy(unpack_ids(packed, self.k, self.num_classes))
        values = torch.from_numpy(columns["log_probs"]).view(num_labels, self.k)
        values, order = values.sort(dim=1, stable=True)
        tail = torch.from_numpy(columns["tail_log_prob"]).view(num_labels, 1)
        return self._labels(ids.gather(1, order), from_bytes(values), from_bytes(tail), MAX_LOG_SUM_8BIT)

    def _labels(self, ids: Tensor, top: Tensor, tail: Tensor, max_log_sum: float = MAX_LOG_SUM) -> TopKLabels:
        log_sum = log_sums(torch.cat([top, tail], dim=1), max_log_sum)
        return TopKLabels(ids, top.sub_(log_sum), tail.sub_(log_sum).squeeze(1), self.num_classes)


def _half(values: Tensor) -> np.ndarray:
    """float16 on the host; a log-probability below -65,504 becomes -inf, which is what it means."""
    return values.half().cpu().numpy()
