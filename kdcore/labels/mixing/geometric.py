"""The normalised geometric mean of several teachers: proportional to the product of p_m ** w_m.

It asks for each teacher's probability of each class, and so:

- dense labels alone: exact;
- with top-k labels the mix names the classes that all of these name, and the odds between them are exact. The rest is
  one cell: the geometric mean of what each teacher leaves, which is at least the mass that the exact mean would have
  there (Hoelder's inequality), so that named classes get at most what is theirs;
- drawn labels (`threshold`, `sampled`) are refused: most classes were not drawn, whose logarithm is minus infinity, and
  the logarithm of an unbiased weight is not unbiased.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.mixing.cells import align, check_alike, row_parts, shares_of
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels

__all__ = ["geometric"]

_NOTHING = float("-inf")


def geometric(labels: Sequence[SoftLabels], weights: Tensor) -> SoftLabels:
    """The geometric mean of M labels of the same N positions; `weights` [M] or [M, N], not negative, sum to one.

    LabelError for drawn labels and features, and where no class has mass with all teachers.
    """
    check_alike(labels, "geometric")
    if any(isinstance(label, SparseLabels) for label in labels):
        raise LabelError(
            "a geometric mean needs each teacher's probability of each class, but labels of codec threshold or sampled "
            "are draws, most classes of which are not there: set the rule to arithmetic, which keeps them unbiased, or "
            "label with labels.codec.type topk or dense"
        )
    shares = shares_of(weights, labels[0].num_labels)
    if len(labels) == 1:
        return labels[0]
    dense = [label for label in labels if isinstance(label, DenseLabels)]
    if len(dense) == len(labels):
        parts = [_dense([label.log_probs[rows] for label in dense], shares[:, rows]) for rows in row_parts(labels)]
        return DenseLabels(torch.cat(parts))
    return _cells(labels, shares)


def _dense(log_probs: Sequence[Tensor], shares: Tensor) -> Tensor:
    mixed = sum(_times(share[:, None], values) for share, values in zip(shares, log_probs, strict=True))
    assert isinstance(mixed, Tensor)
    return _normalised(mixed).float()


def _cells(labels: Sequence[SoftLabels], shares: Tensor) -> TopKLabels:
    cells = align(labels)
    kept = cells.known.all(0)
    left = cells.tails + cells.probs.masked_fill(kept, 0.0).sum(2)
    mixed = _times(shares[:, :, None], cells.probs.log()).sum(0).masked_fill(~kept, _NOTHING)
    tail = _times(shares, left.log()).sum(0)
    mixed = _normalised(torch.cat([mixed, tail[:, None]], 1)).float()
    ids, log_probs = cells.ids.masked_fill(~kept, -1), mixed[:, :-1]
    # Named classes first, so that columns which name none at any position fall away.
    order = (~kept).to(torch.int8).sort(dim=1, stable=True).indices[:, : max(1, _most(kept))]
    return TopKLabels(ids.gather(1, order), log_probs.gather(1, order), mixed[:, -1].contiguous(), cells.num_classes)


def _times(share: Tensor, log_probs: Tensor) -> Tensor:
    """share x log p, 0 where the teacher has no share."""
    return torch.where(share > 0, share * log_probs, 0.0)


def _normalised(log_masses: Tensor) -> Tensor:
    total = log_masses.logsumexp(1, keepdim=True)
    nothing = (total == _NOTHING).squeeze(1)
    if bool(nothing.any()):
        raise LabelError(
            f"a geometric mean needs a class to which every teacher gives mass, label {int(nothing.nonzero()[0, 0])} "
            "has none: teachers that mask classes out disagree on which; set the rule to arithmetic"
        )
    return log_masses - total


def _most(kept: Tensor) -> int:
    return int(kept.sum(1).max()) if len(kept) else 0
