"""Which of two samples is nearer to a third, by the vote of the teachers.

You, Xu, Xu and Tao, "Learning from Multiple Teacher Networks" (KDD 2017). Unverified: neither the paper nor code of its
authors was at hand; the formula is that of descriptions of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcore.config.losses.relation import TripletOrderTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.relation.geometry import distances, rows

__all__ = ["TripletOrder", "triplet_order"]


def triplet_order(student: Tensor, teachers: Sequence[Tensor], margin: float = 1.0) -> Tensor:
    """mean of max(0, ||s_i - s_j||^2 - ||s_i - s_k||^2 + margin) over triplets with j nearer to i than k.

    So find more than half of the teachers that see a difference; 0 where no triplet is told. Features [B, ...] of any
    widths.
    """
    votes = sum(_farther(teacher).sign() for teacher in teachers)
    assert isinstance(votes, Tensor)
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    chosen = (votes > 0) & others[:, :, None] & others[:, None, :]
    hinge = (margin - _farther(student)).clamp(min=0)
    return (hinge * chosen).sum() / chosen.sum().clamp(min=1)


def _farther(features: Tensor) -> Tensor:
    """[B, B, B]: at i, j, k by how much k is farther from i than j, squared distances."""
    squares = distances(rows(features)).square()
    return squares[:, None, :] - squares[:, :, None]


class TripletOrder(FeatureMethod[TripletOrderTerm]):
    """Sum over the pairs of layers, with the one teacher there is."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return triplet_order(student, [teacher], self.term.margin)
