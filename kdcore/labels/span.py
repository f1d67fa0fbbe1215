"""Codec `span`: what a teacher says of each of its tokens, in bytes of the text, for students of any tokenizer.

Of a token are kept its log-probability, the log-probability that white space or a special token comes in its place
(ALM's debiasing, arXiv 2503.20083), and the bytes that it is of: 3.5 bytes and a little. The first is a float16, off by
a 2,048th of itself at most; the second a byte (`eight_bits`, where its error is told); the bytes are exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.byte_sizes import least_bytes, pack_places, unpack_places
from kdcore.labels.checks import check_logits, row_chunks
from kdcore.labels.codec import Encoded, RowView
from kdcore.labels.eight_bits import from_bytes, to_bytes
from kdcore.labels.span_labels import SpanLabels

__all__ = ["SpanCodec", "span_outputs"]

_LOG_PROBS, _BOUNDARY, _SIZES = "token_log_probs", "boundary_log_probs", "byte_sizes"
_EXCESS = 1e-2  # of a log-probability above 0, by rounding


@dataclass(frozen=True)
class SpanCodec:
    """`token_log_probs` float16 and `boundary_log_probs` uint8, one a token; `byte_sizes` uint8 (see `byte_sizes.py`).

    The first is the column that every text has.
    """

    @property
    def name(self) -> str:
        """`span`."""
        return "span"

    @property
    def num_classes(self) -> int:
        """0: labels are not distributions."""
        return 0

    def spec(self) -> dict[str, Any]:
        """Type, and what ends what was written: white space (or a special token)."""
        return {"type": self.name, "boundary": "white_space"}

    def state(self) -> bytes | None:
        """Nothing is learnt."""
        return None

    def fields(self) -> list[pa.Field]:
        """Three lists a row."""
        types = {_LOG_PROBS: pa.float16(), _BOUNDARY: pa.uint8(), _SIZES: pa.uint8()}
        return [pa.field(name, pa.list_(kind)) for name, kind in types.items()]

    def bytes_per_label(self) -> float:
        """Of tokens that are short and have no gap between them; without the column that every text has."""
        return 1.5

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """Of N tokens float64 [N, 4]: log-probability, that of a boundary, begin and end; nothing is random.

        LabelError when a log-probability is NaN or above zero.
        """
        if outputs.ndim != 2 or outputs.shape[1] != 4:
            raise LabelError(f"codec 'span' takes four numbers a token, [N, 4], got {list(outputs.shape)}")
        values = outputs.double().cpu()
        if not bool((values[:, :2] <= _EXCESS).all()):  # NaN is not
            raise LabelError(
                "log-probabilities must be numbers up to 0, but the teacher gave others: check its weights, or set "
                "teacher.dtype: float32"
            )
        own, boundary = values[:, :2].clamp(max=0).unbind(1)
        begins, ends = values[:, 2:].long().numpy().T
        halves = own.half().numpy()  # below -65,504 is probability zero, which is what it means
        return {_LOG_PROBS: halves, _BOUNDARY: to_bytes(boundary.float()).numpy(), "begins": begins, "ends": ends}

    def pack(self, rows: Sequence[Encoded], targets: Sequence[np.ndarray | None]) -> list[dict[str, np.ndarray]]:
        """LabelError when the tokens of a row do not lie one after the other."""
        return [
            {
                _LOG_PROBS: row[_LOG_PROBS],
                _BOUNDARY: row[_BOUNDARY],
                _SIZES: pack_places(row["begins"], row["ends"]),
            }
            for row in rows
        ]

    def misfit(self, lengths: Mapping[str, np.ndarray], num_labels: np.ndarray) -> int | None:
        """The first row whose columns cannot hold its labels."""
        wrong = (lengths[_LOG_PROBS] != num_labels) | (lengths[_BOUNDARY] != num_labels)
        wrong |= (lengths[_SIZES] < least_bytes(num_labels)) | ((lengths[_SIZES] > 0) & (num_labels == 0))
        return int(wrong.argmax()) if wrong.any() else None

    def decode(self, rows: Sequence[RowView], starts: Sequence[int], stops: Sequence[int]) -> SpanLabels:
        """Slices of rows, one after the other; LabelError for values that no teacher gives."""
        parts = [np.empty((2, 0), np.int64)]
        own, boundary = [np.empty(0, np.float16)], [np.empty(0, np.uint8)]
        for row, start, stop in zip(rows, starts, stops, strict=True):
            places = np.stack(unpack_places(row.columns[_SIZES], row.num_labels))
            parts.append(places[:, start:stop])
            own.append(row.columns[_LOG_PROBS][start:stop])
            boundary.append(row.columns[_BOUNDARY][start:stop])
        log_probs = torch.from_numpy(np.concatenate(own).astype(np.float32))
        if not bool((log_probs <= 0).all()):
            raise LabelError("stored log-probabilities must be numbers up to 0: the shard was altered")
        begins, ends = torch.from_numpy(np.concatenate(parts, axis=1))
        masses = from_bytes(torch.from_numpy(np.concatenate(boundary)))
        if not len(log_probs) == len(masses) == len(ends):
            raise LabelError("the columns of span labels have other lengths than their rows: the shard was altered")
        return SpanLabels(log_probs, masses, begins, ends)


def span_outputs(
    logits: Tensor, targets: np.ndarray, begins: np.ndarray, ends: np.ndarray, boundaries: Tensor
) -> Tensor:
    """What the codec encodes, float64 [N, 4] on the CPU, of logits [N, V] of the tokens `targets` int [N].

    `begins` and `ends` int [N] are their bytes, `boundaries` bool [V] the classes that end what was written. LabelError
    for logits that are not finite.
    """
    found = torch.empty(len(logits), 4, dtype=torch.float64)
    found[:, 2:] = torch.from_numpy(np.stack([begins, ends], 1))
    hard = torch.from_numpy(targets).to(logits.device)
    marks = boundaries.to(logits.device)
    for rows in row_chunks(*logits.shape):
        part = logits[rows].float()
        check_logits(part, "the window")
        total = part.logsumexp(1)
        found[rows, 0] = (part.gather(1, hard[rows, None]).squeeze(1) - total).double().cpu()
        found[rows, 1] = (part[:, marks].logsumexp(1) - total).double().cpu()
    return found
