"""What a teacher says of the chunks of a text, for a student of another tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcore.labels.alignment import Tokens, whole_chunks
from kdcore.labels.span_labels import SpanLabels
from kdcore.labels.tensors import OfTensors

__all__ = ["ChunkLabels", "Pieces", "chunk_labels", "chunks_of"]


_LEAST = -30.0  # of a boundary: what a byte cannot tell from nothing


@dataclass(frozen=True)
class ChunkLabels(OfTensors):
    """Of N tokens of a student, C chunks: bytes that begin and end a token of both sides.

    `chunk` int64 [N] is the chunk of a token, -1 where it is in none. `log_probs` float32 [C] is the teacher's of a
    chunk, and `boundary_log_probs` float32 [C] of what ends it: that white space or a special token comes next; the
    student says so at its token `after` int64 [C], -1 (and 0.0) where one side says nothing there. `boundary_ids`
    int64 [B] are the student's classes that end what was written.
    """

    chunk: Tensor
    log_probs: Tensor
    boundary_log_probs: Tensor
    after: Tensor
    boundary_ids: Tensor

    @property
    def num_labels(self) -> int:
        """N."""
        return self.chunk.shape[0]

    @property
    def num_chunks(self) -> int:
        """C."""
        return self.log_probs.shape[0]

    @property
    def num_classes(self) -> int:
        """0: they are no distributions."""
        return 0

    def index(self, index: "slice | list[int] | Tensor") -> "ChunkLabels":
        """No chunk is cut: only all tokens, or none."""
        chosen = torch.as_tensor(index, dtype=torch.int64) if isinstance(index, list) else index
        kept = self.chunk[chosen]
        assert len(kept) in (0, len(self.chunk))
        chunks = slice(None) if len(kept) else slice(0)
        return ChunkLabels(
            kept, self.log_probs[chunks], self.boundary_log_probs[chunks], self.after[chunks], self.boundary_ids
        )


class Pieces(NamedTuple):
    """The chunks of one sequence, as in ChunkLabels."""

    chunk: np.ndarray
    log_probs: np.ndarray
    boundary_log_probs: np.ndarray
    after: np.ndarray


def chunk_labels(parts: Sequence[Pieces], boundary_ids: np.ndarray) -> ChunkLabels:
    """Sequences, one after the other."""
    tokens = np.cumsum([0, *(len(part.chunk) for part in parts)])
    chunks = np.cumsum([0, *(len(part.after) for part in parts)])
    chunk = [np.where(part.chunk < 0, -1, part.chunk + first) for part, first in zip(parts, chunks, strict=False)]
    after = [np.where(part.after < 0, -1, part.after + first) for part, first in zip(parts, tokens, strict=False)]
    nothing, zeros = np.empty(0, np.int64), np.empty(0, np.float32)
    return ChunkLabels(
        torch.from_numpy(np.concatenate([nothing, *chunk])),
        torch.from_numpy(np.concatenate([zeros, *(part.log_probs for part in parts)])),
        torch.from_numpy(np.concatenate([zeros, *(part.boundary_log_probs for part in parts)])),
        torch.from_numpy(np.concatenate([nothing, *after])),
        torch.from_numpy(np.asarray(boundary_ids, np.int64)),
    )


def chunks_of(teacher: SpanLabels, begins: np.ndarray, ends: np.ndarray, merge_below: float = 0.0) -> Pieces:
    """The chunks of a student's tokens of the bytes begins .. ends - 1, int64 [N] each, of the teacher's text.

    A chunk has all of its bytes on both sides. With `merge_below` it is joined with the next one where the teacher
    gives white space no more than this probability after it (`merge_by_space_prob` of ALM's authors).
    """
    if len(ends):  # of a long document the student may read a piece
        near = (teacher.ends > int(begins[0])) & (teacher.begins <= int(ends[-1]))
        teacher = teacher.index(near.nonzero().flatten())
    own, boundary = (
        np.maximum(values.numpy().astype(np.float64), least)
        for values, least in ((teacher.log_probs, -65_504.0), (teacher.boundary_log_probs, _LEAST))
    )
    found = whole_chunks(Tokens(teacher.begins.numpy(), teacher.ends.numpy()), Tokens(begins, ends))
    whole, (theirs, ours) = found.whole, found.after
    said = whole & (theirs >= 0) & (ours >= 0)
    masses = np.where(said, boundary[theirs], 0.0) if len(boundary) else np.zeros(len(whole))
    first, second = found.alignment.first, found.alignment.second
    sums = np.bincount(first[first >= 0], own[first >= 0], minlength=len(whole))
    # The last of the chunks that are joined: after it white space is likely enough, or the next one is not known.
    next_whole = np.append(whole[1:] & (found.begins[1:] == found.ends[:-1]), False)
    unlikely = masses <= np.log(merge_below) if merge_below > 0 else np.zeros(len(whole), bool)
    last = whole & ~(said & next_whole & unlikely)
    group = np.where(whole, np.cumsum(last) - last, -1)
    closing = np.flatnonzero(last)
    chunk = np.where(second >= 0, group[second], -1) if len(group) else second
    joined = np.bincount(group[whole], sums[whole], minlength=len(closing)).astype(np.float32)
    after = np.where(said, ours, -1)[closing]
    return Pieces(chunk, joined, masses[closing].astype(np.float32), after)
