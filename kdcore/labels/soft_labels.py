"""A soft label in memory: what the teacher says, for N labels at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.apart import ApartLabels
from kdcore.labels.chunk_labels import ChunkLabels
from kdcore.labels.opening_labels import OpeningLabels
from kdcore.labels.span_labels import SpanLabels
from kdcore.labels.tensors import OfTensors

__all__ = [
    "DenseLabels",
    "FeatureLabels",
    "Index",
    "SoftLabels",
    "SparseLabels",
    "TopKLabels",
    "best_class",
    "concat",
]

Index = slice | Sequence[int] | Tensor
"""Which labels: what `index` of each kind takes."""


@dataclass(frozen=True)
class TopKLabels(OfTensors):
    """The K most probable classes of each label; every other class shares one tail cell.

    `ids` [N, K] int64 (distinct in a row), `log_probs` [N, K] float32, `tail_log_prob` [N] float32. The K + 1 cells of
    a row sum to one. A cell without mass is -inf: the tail when K = V, entries of classes that the teacher masks out.
    """

    ids: Tensor
    log_probs: Tensor
    tail_log_prob: Tensor
    num_classes: int

    def __post_init__(self) -> None:
        if self.ids.shape != self.log_probs.shape or self.tail_log_prob.shape != self.ids.shape[:1]:
            raise LabelError(
                f"top-k labels must have ids [N, K], log_probs [N, K] and tail_log_prob [N], got "
                f"{list(self.ids.shape)}, {list(self.log_probs.shape)} and {list(self.tail_log_prob.shape)}"
            )

    @property
    def num_labels(self) -> int:
        """N."""
        return self.ids.shape[0]

    def index(self, index: Index) -> "TopKLabels":
        """The labels at `index`: a slice, a list of positions, or an int64 or bool tensor."""
        index = _as_index(index)
        return TopKLabels(self.ids[index], self.log_probs[index], self.tail_log_prob[index], self.num_classes)


@dataclass(frozen=True)
class DenseLabels(OfTensors):
    """Every class of each label: `log_probs` [N, V] float32; each row sums to one (in probability)."""

    log_probs: Tensor

    def __post_init__(self) -> None:
        if self.log_probs.ndim != 2:
            raise LabelError(f"dense labels must have log_probs [N, V], got {list(self.log_probs.shape)}")

    @property
    def num_labels(self) -> int:
        """N."""
        return self.log_probs.shape[0]

    @property
    def num_classes(self) -> int:
        """V."""
        return self.log_probs.shape[1]

    def index(self, index: Index) -> "DenseLabels":
        """The labels at `index`: a slice, a list of positions, or an int64 or bool tensor."""
        return DenseLabels(self.log_probs[_as_index(index)])


@dataclass(frozen=True)
class SparseLabels(OfTensors):
    """A few weighted classes a label, unbiased: the expected weight of a class is the teacher's probability.

    Label i has the entries offsets[i] .. offsets[i + 1] - 1 of `ids` int64 (distinct within a label, in no order) and
    `weights` float32; `offsets` int64 [N + 1] rise from 0. The weights of a label sum to one.

    `host_offsets` are the offsets of labels that were made on a CPU, wherever these are now: to cut them at, a GPU need
    not be waited for. None of labels that were made on a GPU.
    """

    ids: Tensor
    weights: Tensor
    offsets: Tensor
    num_classes: int
    host_offsets: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.offsets.device.type == "cpu":
            object.__setattr__(self, "host_offsets", self.offsets.numpy())
        if self.ids.shape != self.weights.shape or self.ids.ndim != 1 or self.offsets.ndim != 1:
            raise LabelError(
                f"sparse labels must have ids [E], weights [E] and offsets [N + 1], got {list(self.ids.shape)}, "
                f"{list(self.weights.shape)} and {list(self.offsets.shape)}"
            )

    @property
    def num_labels(self) -> int:
        """N."""
        return self.offsets.shape[0] - 1

    def label_of_entry(self) -> Tensor:
        """The label that each entry belongs to, int64 [E]."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(counts, output_size=self.ids.shape[0])

    def index(self, index: Index) -> "SparseLabels":
        """The labels at `index`: a slice, a list of positions, or an int64 or bool tensor."""
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(self.num_labels)
            offsets = self.offsets[start : max(start, stop) + 1]
            entries = slice(int(offsets[0]), int(offsets[-1]))
            return SparseLabels(self.ids[entries], self.weights[entries], offsets - offsets[0], self.num_classes)
        chosen = torch.arange(self.num_labels, device=self.offsets.device)[_as_index(index)]
        counts = self.offsets.diff()[chosen]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        shift = torch.repeat_interleave(self.offsets[chosen] - offsets[:-1], counts)
        entries = shift + torch.arange(shift.shape[0], device=shift.device)
        return SparseLabels(self.ids[entries], self.weights[entries], offsets, self.num_classes)


@dataclass(frozen=True)
class FeatureLabels(OfTensors):
    """Features of each label: `features` float32 [N, D], the layers of `layers` (name, width) side by side."""

    features: Tensor
    layers: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.shape[1] != sum(width for _, width in self.layers):
            raise LabelError(f"features of layers {self.layers} side by side, got {list(self.features.shape)}")

    @property
    def num_labels(self) -> int:
        """N."""
        return self.features.shape[0]

    @property
    def num_classes(self) -> int:
        """0: features are not distributions."""
        return 0

    def layer(self, name: str) -> Tensor:
        """The features [N, width] of one layer; LabelError when there is no such layer."""
        start = 0
        for known, width in self.layers:
            if known == name:
                return self.features[:, start : start + width]
            start += width
        raise LabelError(f"no features of '{name}' are stored, only of {[known for known, _ in self.layers]}")

    def index(self, index: Index) -> "FeatureLabels":
        """The labels at `index`: a slice, a list of positions, or an int64 or bool tensor."""
        return FeatureLabels(self.features[_as_index(index)], self.layers)


SoftLabels = (
    TopKLabels | DenseLabels | SparseLabels | FeatureLabels | SpanLabels | ChunkLabels | OpeningLabels | ApartLabels
)
"""Labels of any kind."""


def best_class(labels: SoftLabels) -> Tensor:
    """The class with the most mass in each label, int64 [N]; LabelError for features and spans."""
    if isinstance(labels, TopKLabels):
        return labels.ids.gather(1, labels.log_probs.argmax(1, keepdim=True)).squeeze(1)
    if isinstance(labels, DenseLabels):
        return labels.log_probs.argmax(1)
    if isinstance(labels, FeatureLabels | SpanLabels | ChunkLabels | OpeningLabels | ApartLabels):
        raise LabelError("features, spans and several labels have no best class: they are not one distribution")
    # Sorted by label, then by falling weight: the first entry of each label is its best.
    order = torch.argsort(labels.weights, descending=True, stable=True)
    order = order[torch.argsort(labels.label_of_entry()[order], stable=True)]
    return labels.ids[order][labels.offsets[:-1]]


def concat(parts: Sequence[SoftLabels]) -> SoftLabels:
    """One after the other. All parts must be of one type, one V and (top-k) one K; LabelError otherwise."""
    if not parts:
        raise LabelError("cannot join an empty list of labels: their type and class count are unknown")
    kinds = {(type(part).__name__, part.num_classes) for part in parts}
    if len(kinds) > 1:
        raise LabelError(f"cannot join labels of different type or class count: {sorted(kinds)}")
    if isinstance(parts[0], DenseLabels):
        return DenseLabels(torch.cat([part.log_probs for part in parts if isinstance(part, DenseLabels)]))
    if isinstance(parts[0], FeatureLabels):
        features = [part for part in parts if isinstance(part, FeatureLabels)]
        if len({part.layers for part in features}) > 1:
            raise LabelError(f"cannot join features of different layers: {sorted({part.layers for part in features})}")
        return FeatureLabels(torch.cat([part.features for part in features]), features[0].layers)
    if isinstance(parts[0], SparseLabels):
        return _concat_sparse([part for part in parts if isinstance(part, SparseLabels)])
    if isinstance(parts[0], SpanLabels):
        values = zip(*(vars(part).values() for part in parts), strict=True)
        return SpanLabels(*(torch.cat(column) for column in values))
    if isinstance(parts[0], ApartLabels):
        every = [part.parts for part in parts if isinstance(part, ApartLabels)]
        return ApartLabels(tuple(concat(theirs) for theirs in zip(*every, strict=True)))
    if isinstance(parts[0], ChunkLabels | OpeningLabels):
        raise LabelError("chunks are of one batch of a student's tokens: make them of all its sequences at once")
    return _concat_topk([part for part in parts if isinstance(part, TopKLabels)])


def _concat_sparse(parts: Sequence[SparseLabels]) -> SparseLabels:
    counts = torch.cat([part.offsets.diff() for part in parts])
    return SparseLabels(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.weights for part in parts]),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        parts[0].num_classes,
    )


def _concat_topk(parts: Sequence[TopKLabels]) -> TopKLabels:
    widths = {part.ids.shape[1] for part in parts}
    if len(widths) > 1:
        raise LabelError(f"cannot join top-k labels of different k: {sorted(widths)}")
    return TopKLabels(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.log_probs for part in parts]),
        torch.cat([part.tail_log_prob for part in parts]),
        parts[0].num_classes,
    )


def _as_index(index: Index) -> slice | Tensor:
    """A list of positions as an int64 tensor, so that an empty list selects no label."""
    if isinstance(index, slice | Tensor):
        return index
    return torch.as_tensor(index, dtype=torch.int64)
