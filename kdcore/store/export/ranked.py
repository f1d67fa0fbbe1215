"""The most probable classes of each label, whatever codec it was kept by."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels import (
    ApartLabels,
    ChunkLabels,
    DenseLabels,
    FeatureLabels,
    OpeningLabels,
    SoftLabels,
    SpanLabels,
    TopKLabels,
)

__all__ = ["Ranked", "join_ranked", "ranked"]


@dataclass(frozen=True)
class Ranked:
    """`ids` int64 [N, K] and `log_probs` float32 [N, K], falling; `known` bool [N, K] is False where there is no entry.

    An unknown entry has id 0 and log-probability -inf, and comes after the known ones.
    """

    ids: Tensor
    log_probs: Tensor
    known: Tensor

    def mass(self) -> Tensor:
        """The probability of all known entries of each label, float32 [N]."""
        return self.log_probs.exp().sum(1)


def join_ranked(parts: Sequence[Ranked]) -> Ranked:
    """One after the other; at least one part, all of one width."""
    return Ranked(*(torch.cat(part) for part in zip(*(vars(part).values() for part in parts), strict=True)))


def ranked(labels: SoftLabels, top: int) -> Ranked:
    """The `top` classes of each label with the most weight; classes of weight zero are not entries.

    Equal weights rank by falling log-probability as stored, then by id. LabelError for features and spans.
    """
    if isinstance(labels, FeatureLabels | SpanLabels | ChunkLabels | OpeningLabels | ApartLabels):
        raise LabelError(
            "features, spans and several labels have no most probable classes: they are not one distribution"
        )
    if top < 1:
        raise LabelError(f"at least one class a label is needed, got {top}")
    if isinstance(labels, TopKLabels):
        return _of_cells(labels.ids, labels.log_probs, top)
    if isinstance(labels, DenseLabels):
        values, ids = labels.log_probs.topk(min(top, labels.num_classes), dim=1)
        return _of_cells(ids, values, top)
    # By label, then falling weight, then id: three stable sorts, the most important last.
    order = torch.argsort(labels.ids, stable=True)
    order = order[torch.argsort(labels.weights[order], descending=True, stable=True)]
    owner = labels.label_of_entry()
    order = order[torch.argsort(owner[order], stable=True)]
    rank = torch.arange(len(order)) - labels.offsets[:-1][owner[order]]
    return _scattered(labels.num_labels, top, owner[order], rank, labels.ids[order], labels.weights[order].log())


def _of_cells(ids: Tensor, log_probs: Tensor, top: int) -> Ranked:
    log_probs, order = log_probs.sort(dim=1, descending=True, stable=True)
    width = min(top, ids.shape[1])
    rows = torch.arange(ids.shape[0])[:, None].expand(-1, width)
    rank = torch.arange(width).expand(ids.shape[0], -1)
    ids, log_probs = ids.gather(1, order)[:, :width], log_probs[:, :width]
    return _scattered(ids.shape[0], top, *(part.reshape(-1) for part in (rows, rank, ids, log_probs)))


def _scattered(rows: int, top: int, owner: Tensor, rank: Tensor, ids: Tensor, log_probs: Tensor) -> Ranked:
    """A table of entries that are ranked within their labels."""
    keep = (rank < top) & ~torch.isneginf(log_probs)
    owner, rank = owner[keep], rank[keep]
    found = Ranked(
        torch.zeros(rows, top, dtype=torch.int64),
        torch.full((rows, top), -torch.inf),
        torch.zeros(rows, top, dtype=torch.bool),
    )
    found.ids[owner, rank], found.log_probs[owner, rank], found.known[owner, rank] = ids[keep], log_probs[keep], True
    return found
