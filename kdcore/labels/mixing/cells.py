"""What several teachers say of the same positions over the same cells: named classes, and one cell for the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.checks import row_chunks
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels

__all__ = ["Cells", "align", "check_alike", "padded", "row_parts", "shares_of"]


@dataclass(frozen=True)
class Cells:
    """`ids` int64 [N, U], distinct in a row, -1 where there are fewer; `probs` float64 [M, N, U] is what each of M
    teachers gives them, `known` bool [M, N, U] whether it names them, and `tails` float64 [M, N] the mass of the rest.
    """

    ids: Tensor
    probs: Tensor
    known: Tensor
    tails: Tensor
    num_classes: int


def check_alike(labels: Sequence[SoftLabels], rule: str) -> None:
    """LabelError unless they are distributions over the same classes, of as many positions each."""
    if not labels:
        raise LabelError(f"rule '{rule}' mixes the labels of one teacher or more, got none")
    for label in labels:
        if not isinstance(label, DenseLabels | SparseLabels | TopKLabels):
            raise LabelError(
                f"rule '{rule}' mixes distributions, but one of the stores holds features or spans: leave it out"
            )
    sizes = {(label.num_labels, label.num_classes) for label in labels}
    if len(sizes) > 1:
        raise LabelError(f"rule '{rule}' mixes labels of the same positions and classes, got [N, V] {sorted(sizes)}")


def shares_of(weights: Tensor, num_labels: int) -> Tensor:
    """Weights [M] or [M, N] as float64 [M, N]."""
    wide = weights.double()
    return wide[:, None].expand(-1, num_labels) if wide.ndim == 1 else wide


def padded(labels: SparseLabels) -> tuple[Tensor, Tensor]:
    """Classes int64 [N, W], -1 where a label has fewer, and their weights [N, W], there 0."""
    counts, label = labels.offsets.diff(), labels.label_of_entry()
    width = int(counts.max()) if len(counts) else 0
    place = torch.arange(len(label), device=label.device) - labels.offsets[label]
    ids = labels.ids.new_full((len(counts), width), -1).index_put_((label, place), labels.ids)
    return ids, labels.weights.new_zeros(ids.shape).index_put_((label, place), labels.weights)


def align(labels: Sequence[SoftLabels]) -> Cells:
    """Labels of the same N positions over the cells of every class that one of them names.

    Dense labels name no class by themselves (unless all are dense: then all V are), and know of each.
    """
    named = [_named(label) for label in labels]
    if all(part is None for part in named):
        return _all_classes([label for label in labels if isinstance(label, DenseLabels)])
    num_classes = labels[0].num_classes
    ids, places = _union([part[0] for part in named if part is not None], num_classes)
    probs, tails, known = [], [], []
    waiting = list(places)
    for label, part in zip(labels, named, strict=True):
        if part is None:
            found, sure = _dense_at(label, ids), ids >= 0
            rest = (1 - found.sum(1)).clamp(min=0)
        else:
            place = waiting.pop(0)
            wide = part[1].new_zeros(len(ids), ids.shape[1] + 1)
            found = wide.scatter_add(1, place, part[1])[:, :-1]
            sure = torch.zeros_like(wide, dtype=torch.bool).scatter_(1, place, True)[:, :-1]
            rest = part[2]
        probs.append(found)
        known.append(sure)
        tails.append(rest)
    return Cells(ids, torch.stack(probs), torch.stack(known), torch.stack(tails), num_classes)


def row_parts(labels: Sequence[SoftLabels]) -> list[slice]:
    """Slices of positions, one at least, whose cells in float64 stay a few tens of megabytes: dense labels are wide."""
    width = sum(label.num_classes for label in labels if isinstance(label, DenseLabels))
    return row_chunks(labels[0].num_labels, width) or [slice(0)]


def _named(label: SoftLabels) -> tuple[Tensor, Tensor, Tensor] | None:
    """Classes [N, W] that a label names, their mass, and that of the rest [N], float64; None of dense labels."""
    if isinstance(label, TopKLabels):
        return label.ids, label.log_probs.double().exp(), label.tail_log_prob.double().exp()
    if isinstance(label, SparseLabels):
        ids, weights = padded(label)
        return ids, weights.double(), weights.new_zeros(len(ids), dtype=torch.float64)
    return None


def _all_classes(labels: Sequence[DenseLabels]) -> Cells:
    probs = torch.stack([label.log_probs.double().exp() for label in labels])
    ids = torch.arange(probs.shape[2], device=probs.device).expand(probs.shape[1:])
    return Cells(ids, probs, torch.ones_like(probs, dtype=torch.bool), probs.new_zeros(probs.shape[:2]), probs.shape[2])


def _union(parts: Sequence[Tensor], num_classes: int) -> tuple[Tensor, list[Tensor]]:
    """The classes of each row, int64 [N, U], and where in it the entries of each part lie (in column U: nowhere)."""
    every = torch.cat(list(parts), 1)
    every = every.masked_fill(every < 0, num_classes)
    ordered, origin = every.sort(1)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first &= ordered < num_classes
    width = max(1, int(first.sum(1).max())) if len(first) else 1
    segment = (first.cumsum(1) - 1).masked_fill(ordered == num_classes, width)
    ids = ordered.new_full((len(every), width + 1), -1).scatter_(1, segment, ordered)[:, :-1]
    place = torch.empty_like(segment).scatter_(1, origin, segment)
    return ids, list(place.split([part.shape[1] for part in parts], 1))


def _dense_at(label: SoftLabels, ids: Tensor) -> Tensor:
    assert isinstance(label, DenseLabels)
    return label.log_probs.gather(1, ids.clamp(min=0)).double().exp().masked_fill(ids < 0, 0.0)
