"""What `threshold` and `sampled` share: a label is D draws from the teacher, kept as classes with counts.

The weight of a class is its count over D, so that the weights of a label sum to one. The two codecs differ only in how
the D points are thrown; columns, coder and decoder are the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.checks import check_shape
from kdcore.labels.codec import Encoded, RowView, join
from kdcore.labels.coder import BLOCK_LABELS, MAX_DRAWS, Block, CoderModel, decode, encode
from kdcore.labels.sampling import draw_counts
from kdcore.labels.soft_labels import SparseLabels

__all__ = ["MAX_DRAWS", "CountsCodec"]


@dataclass(frozen=True)
class CountsCodec(ABC):
    """Two columns: `codes` uint16, the coded words of a row, and `block_words` int32, words of every 128 labels."""

    model: CoderModel
    seed: int = 0

    @property
    @abstractmethod
    def name(self) -> str:
        """The `type` of the codec."""

    @staticmethod
    @abstractmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        """Where the draws of each label fall, float64 [N, draws] in [0, 1), rising in each row."""

    @property
    def draws(self) -> int:
        """D."""
        return self.model.draws

    @property
    def num_classes(self) -> int:
        """V."""
        return self.model.num_classes

    @cached_property
    def _state(self) -> bytes:
        return self.model.to_bytes()

    def state(self) -> bytes:
        """The coder's tables."""
        return self._state

    def spec(self) -> dict[str, Any]:
        """Type, draws, num_classes, the seed of the draws and the digest of the coder's tables."""
        return {
            "type": self.name,
            "draws": self.draws,
            "num_classes": self.num_classes,
            "seed": self.seed,
            "coder": self.model.digest,
        }

    def fields(self) -> list[pa.Field]:
        """Two lists a row."""
        return [pa.field("codes", pa.list_(pa.uint16())), pa.field("block_words", pa.list_(pa.int32()))]

    def bytes_per_label(self) -> float:
        """What a label of the probe took, as its tables tell."""
        return self.model.bytes_per_label

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """Logits [N, V] into drawn classes with counts; `seeds` uint64 [N] decide the draws."""
        return self.draw(outputs, seeds)[0]

    def draw(self, outputs: Tensor, seeds: np.ndarray) -> tuple[Encoded, np.ndarray]:
        """What `encode` gives, and the log-sum-exp of each row of logits, float64 [N], which costs nothing more."""
        check_shape(outputs, self.num_classes, self.name)
        return draw_counts(outputs, self.points(seeds, self.draws))

    def pack(self, rows: Sequence[Encoded], targets: Sequence[np.ndarray | None]) -> list[dict[str, np.ndarray]]:
        """Coded words of each row; a hard label among the classes of its label costs a flag instead of an id."""
        if not rows:
            return []
        all_rows = join(rows)
        num_labels = np.array([len(row["entries"]) for row in rows], np.int64)
        hard = _hard_labels(targets, num_labels)
        words, block_words = encode(
            self.model, all_rows["ids"], all_rows["counts"], all_rows["entries"], hard, num_labels
        )
        blocks_of = np.cumsum(-(-num_labels // BLOCK_LABELS))
        words_of = np.concatenate([[0], np.cumsum(block_words, dtype=np.int64)])[blocks_of]
        parts = zip(np.split(words, words_of[:-1]), np.split(block_words, blocks_of[:-1]), strict=True)
        return [{"codes": codes, "block_words": sizes} for codes, sizes in parts]

    def misfit(self, lengths: Mapping[str, np.ndarray], num_labels: np.ndarray) -> int | None:
        """The first row with another number of blocks than its labels make."""
        wrong = lengths["block_words"] != -(-num_labels // BLOCK_LABELS)
        wrong |= lengths["codes"] < 2 * lengths["block_words"]
        return int(wrong.argmax()) if wrong.any() else None

    def decode(self, rows: Sequence[RowView], starts: Sequence[int], stops: Sequence[int]) -> SparseLabels:
        """The draws of some labels of each row, as weights; LabelError when they do not decode."""
        blocks, words, targets = _blocks_of(rows, starts, stops)
        ids, weights, entries = decode(self.model, words, blocks, targets)
        offsets = np.concatenate([[0], np.cumsum(entries)])
        return SparseLabels(
            torch.from_numpy(ids), torch.from_numpy(weights), torch.from_numpy(offsets), self.num_classes
        )


def _hard_labels(targets: Sequence[np.ndarray | None], num_labels: np.ndarray) -> np.ndarray:
    """The hard labels of all rows, int64; -1 in a row that has none."""
    parts = [np.empty(0, np.int64)]
    for target, count in zip(targets, num_labels, strict=True):
        if target is not None and len(target) != count:
            raise LabelError(f"a row of {count} labels came with {len(target)} hard labels")
        parts.append(np.full(count, -1) if target is None else target.astype(np.int64))
    return np.concatenate(parts)


def _blocks_of(
    rows: Sequence[RowView], starts: Sequence[int], stops: Sequence[int]
) -> tuple[Block, np.ndarray, np.ndarray]:
    """The blocks that hold labels starts[i] .. stops[i] - 1 of rows[i], over one array of words; and all hard labels.

    Arrays over rows, then over blocks, not a row at a time: a batch of short texts has many.
    """
    num_labels, begins, ends = (
        np.array(values, np.int64) for values in ([row.num_labels for row in rows], starts, stops)
    )
    firsts = begins // BLOCK_LABELS
    lasts = np.maximum(firsts, -(-ends // BLOCK_LABELS))
    sizes, before, words_before = _sizes(rows, lasts)
    counts = lasts - firsts
    row = np.repeat(np.arange(len(rows)), counts)
    number = np.arange(len(row)) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    labels = np.minimum(BLOCK_LABELS, num_labels[row] - number * BLOCK_LABELS)
    skip = np.clip(begins[row] - number * BLOCK_LABELS, 0, labels)
    take = np.clip(ends[row] - number * BLOCK_LABELS, 0, labels) - skip
    num_words = sizes[before[row] + number]
    at = words_before[np.stack([before + firsts, before + lasts])] - words_before[before]
    codes = [view.columns["codes"][first:last] for view, first, last in zip(rows, *at.tolist(), strict=True)]
    words = np.concatenate([np.empty(0, np.uint16), *codes], dtype=np.uint16)
    spans = np.stack([firsts * BLOCK_LABELS, np.minimum(lasts * BLOCK_LABELS, num_labels)]).tolist()
    hard = [_hard_span(view, first, last) for view, first, last in zip(rows, *spans, strict=True)]
    targets = np.concatenate([np.empty(0, np.int64), *hard], dtype=np.int64)
    return Block(np.cumsum(num_words) - num_words, num_words, labels, skip, take), words, targets


def _sizes(rows: Sequence[RowView], needed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Words of every block of all rows, int64 [B]; blocks before each row [R], and words before each block [B + 1].

    LabelError where a row has fewer blocks than `needed` [R], or other words than they say.
    """
    parts = [row.columns["block_words"] for row in rows]
    sizes = np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64)
    counts = np.array([len(part) for part in parts], np.int64)
    held = np.array([len(row.columns["codes"]) for row in rows], np.int64)
    before = np.cumsum(counts) - counts
    words_before = np.append(0, np.cumsum(sizes))
    said = words_before[before + counts] - words_before[before]
    wrong = (counts < needed) | (said != held)
    wrong[np.repeat(np.arange(len(rows)), counts)[sizes < 0]] = True
    if wrong.any():
        bad = int(wrong.argmax())
        raise LabelError(
            f"a row of {rows[bad].num_labels} labels has {counts[bad]} blocks of {said[bad]} words in all, but "
            f"{held[bad]} words: the shard was altered; `kd store verify` says which"
        )
    return sizes, before, words_before


def _hard_span(row: RowView, first: int, last: int) -> np.ndarray:
    if row.targets is None:
        return np.full(last - first, -1)
    if len(row.targets) != row.num_labels:
        raise LabelError(f"a row of {row.num_labels} labels came with {len(row.targets)} hard labels")
    return row.targets[first:last]
