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
        spans = [_Span.of(row, start, stop) for row, start, stop in zip(rows, starts, stops, strict=True)]
        blocks, words, targets = _joined(spans)
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


@dataclass(frozen=True)
class _Span:
    """The blocks of one row that hold the labels start .. stop - 1: arrays over blocks, words and their labels."""

    words: np.ndarray
    block_words: np.ndarray
    labels: np.ndarray
    skip: np.ndarray
    take: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, row: RowView, start: int, stop: int) -> "_Span":
        first, last = start // BLOCK_LABELS, max(start // BLOCK_LABELS, -(-stop // BLOCK_LABELS))
        sizes = row.columns["block_words"]
        if row.targets is not None and len(row.targets) != row.num_labels:
            raise LabelError(f"a row of {row.num_labels} labels came with {len(row.targets)} hard labels")
        ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if len(sizes) < last or ends[-1] != len(row.columns["codes"]) or (sizes < 0).any():
            raise LabelError(
                f"a row of {row.num_labels} labels has {len(sizes)} blocks of {ends[-1]} words in all, but "
                f"{len(row.columns['codes'])} words: the shard was altered; `kd store verify` says which"
            )
        firsts = np.arange(first, last) * BLOCK_LABELS
        labels = np.minimum(BLOCK_LABELS, row.num_labels - firsts)
        skip = np.clip(start - firsts, 0, labels)
        begin, end = first * BLOCK_LABELS, min(last * BLOCK_LABELS, row.num_labels)
        none = row.targets is None
        targets = np.full(end - begin, -1) if none else np.asarray(row.targets[begin:end], np.int64)  # pyright: ignore
        words = row.columns["codes"][ends[first] : ends[last]]
        return cls(words, sizes[first:last], labels, skip, np.clip(stop - firsts, 0, labels) - skip, targets)


def _joined(spans: Sequence[_Span]) -> tuple[Block, np.ndarray, np.ndarray]:
    """One set of blocks over one array of words, and the hard labels."""

    def column(name: str, dtype: type[np.generic]) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype), *(getattr(span, name) for span in spans)]).astype(dtype, copy=False)

    num_words = column("block_words", np.int64)
    blocks = Block(
        np.cumsum(num_words) - num_words, num_words, *(column(name, np.int64) for name in ("labels", "skip", "take"))
    )
    return blocks, column("words", np.uint16), column("targets", np.int64)
