"""What a teacher of another tokenizer says where a chunk of text begins: the distribution of its own next token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcore.labels.alignment import Tokens, whole_chunks
from kdcore.labels.tensors import OfTensors

if TYPE_CHECKING:
    from kdcore.labels.soft_labels import TopKLabels

__all__ = ["OpeningLabels", "Openings", "opening_labels", "openings_of"]

_LEAST = -65_504.0  # of a stored log-probability


@dataclass(frozen=True)
class OpeningLabels(OfTensors):
    """Of N tokens of a student, C chunks: bytes that begin and end a token of both sides, as few as can be.

    `chunk` int64 [N] is the chunk of a token, -1 where it is in none; `opening` int64 [C] the token that begins it. Of
    the teacher's token that begins it `labels` are the distribution, C labels over the teacher's classes, and
    `rest_log_probs` float32 [C] is the log-probability of the tokens after that one in the chunk, 0.0 of none.
    `student_of` int64 [teacher's classes] is the student's class that stands for the same string, -1 where none does.
    """

    chunk: Tensor
    opening: Tensor
    labels: "TopKLabels"
    rest_log_probs: Tensor
    student_of: Tensor

    @property
    def num_labels(self) -> int:
        """N."""
        return self.chunk.shape[0]

    @property
    def num_chunks(self) -> int:
        """C."""
        return self.opening.shape[0]

    @property
    def num_classes(self) -> int:
        """0: they are no distributions over the student's classes."""
        return 0

    @property
    def boundary_ids(self) -> Tensor:
        """int64 [0]: nobody asks what ends a chunk."""
        return self.chunk[:0]

    def index(self, index: "slice | list[int] | Tensor") -> "OpeningLabels":
        """No chunk is cut: only all tokens, or none."""
        chosen = torch.as_tensor(index, dtype=torch.int64) if isinstance(index, list) else index
        kept = self.chunk[chosen]
        assert len(kept) in (0, len(self.chunk))
        chunks = slice(None) if len(kept) else slice(0)
        return OpeningLabels(
            kept, self.opening[chunks], self.labels.index(chunks), self.rest_log_probs[chunks], self.student_of
        )


class Openings(NamedTuple):
    """The chunks of one sequence, as in OpeningLabels; `asked` int64 [C] are the teacher's tokens that begin them."""

    chunk: np.ndarray
    opening: np.ndarray
    asked: np.ndarray
    rest_log_probs: np.ndarray


def openings_of(theirs: Tokens, log_probs: np.ndarray, ours: Tokens) -> Openings:
    """The chunks of a student's N tokens and a teacher's T, of which `log_probs` float [T] are the log-probabilities.

    A chunk has all of its bytes on both sides. LabelError for tokens whose ends fall.
    """
    found = whole_chunks(theirs, ours)
    whole, (asked, opening) = found.whole, found.opening
    first, second = found.alignment.first, found.alignment.second
    number = np.where(whole, np.cumsum(whole) - 1, -1)
    chunk = np.where(second >= 0, number[second], -1) if len(number) else second
    later = np.maximum(log_probs.astype(np.float64), _LEAST)
    later[asked[whole]] = 0.0
    rest = np.bincount(first[first >= 0], later[first >= 0], minlength=len(whole))[whole]
    return Openings(chunk, opening[whole], asked[whole], rest.astype(np.float32))


def opening_labels(parts: Sequence[Openings], labels: "TopKLabels", student_of: Tensor) -> OpeningLabels:
    """Sequences, one after the other; `labels` are those of the `asked` tokens of all."""
    tokens = np.cumsum([0, *(len(part.chunk) for part in parts)])
    chunks = np.cumsum([0, *(len(part.opening) for part in parts)])
    chunk = [np.where(part.chunk < 0, -1, part.chunk + first) for part, first in zip(parts, chunks, strict=False)]
    opening = [part.opening + first for part, first in zip(parts, tokens, strict=False)]
    nothing = np.empty(0, np.int64)
    return OpeningLabels(
        torch.from_numpy(np.concatenate([nothing, *chunk])),
        torch.from_numpy(np.concatenate([nothing, *opening])),
        labels,
        torch.from_numpy(np.concatenate([np.empty(0, np.float32), *(part.rest_log_probs for part in parts)])),
        student_of,
    )
