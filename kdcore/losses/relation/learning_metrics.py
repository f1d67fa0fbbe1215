"""Embeddings that are alike, or as far from each other.

Yu et al., "Learning Metrics from Teachers: Compact Networks for Image Embedding" (arXiv 1904.03624), as in the authors'
code: the root of the sum of squares for the relative form.
"""

import torch
from torch import Tensor

from kdcore.config.losses.relation import LearningMetricsTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import project, vector_projector
from kdcore.losses.relation.geometry import distances, rows, width

__all__ = ["LearningMetrics", "absolute_loss", "relative_loss"]

# Squared length of a difference that has no slope: its root has none at 0.
_SMALLEST = 1e-24


def absolute_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean ||s_i - t_i|| of embeddings [B, D]."""
    return _length(wide(student) - wide(teacher), 1).mean()


def relative_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||D_s - D_t||_F of distances within the batch, D [B, B]; features [B, ...], widths may differ."""
    return _length(distances(rows(student)) - distances(rows(teacher)), (0, 1))


def _length(differences: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    squares = differences.square().sum(dims)
    none = squares <= _SMALLEST
    return torch.where(none, 0.0, squares.masked_fill(none, 1.0).sqrt())


class LearningMetrics(FeatureMethod[LearningMetricsTerm]):
    """Both forms, weighed; a layer's embeddings are projected for the absolute one where widths differ."""

    def __init__(self, term: LearningMetricsTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        if term.absolute_weight > 0:
            self.projectors = self.for_pairs(shapes, lambda ours, theirs: vector_projector(width(ours), width(theirs)))

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        loss = self.term.relative_weight * relative_loss(student, teacher)
        if self.term.absolute_weight == 0:
            return loss
        ours = project(self.projectors[number], rows(student))
        return loss + self.term.absolute_weight * absolute_loss(ours, rows(teacher))
