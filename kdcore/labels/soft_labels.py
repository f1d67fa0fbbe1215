"""A soft label in memory: the teacher's distribution over classes, for N labels at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import LabelError

__all__ = ["DenseLabels", "Index", "SoftLabels", "TopKLabels", "concat"]

Index = slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class TopKLabels:
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

    def to(self, device: torch.device | str) -> "TopKLabels":
        """The same labels on `device`."""
        return TopKLabels(
            self.ids.to(device), self.log_probs.to(device), self.tail_log_prob.to(device), self.num_classes
        )


@dataclass(frozen=True)
class DenseLabels:
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

    def to(self, device: torch.device | str) -> "DenseLabels":
        """The same labels on `device`."""
        return DenseLabels(self.log_probs.to(device))


SoftLabels = TopKLabels | DenseLabels


def concat(parts: Sequence[SoftLabels]) -> SoftLabels:
    """One after the other. All parts must be of one type, one V and (top-k) one K; LabelError otherwise."""
    if not parts:
        raise LabelError("cannot join an empty list of labels: their type and class count are unknown")
    kinds = {(type(part).__name__, part.num_classes) for part in parts}
    if len(kinds) > 1:
        raise LabelError(f"cannot join labels of different type or class count: {sorted(kinds)}")
    dense = [part for part in parts if isinstance(part, DenseLabels)]
    if dense:
        return DenseLabels(torch.cat([part.log_probs for part in dense]))
    return _concat_topk([part for part in parts if isinstance(part, TopKLabels)])


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
