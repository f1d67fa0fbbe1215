"""The overhaul of feature distillation: margin ReLU on the teacher's features, and a distance that forgives silence.

Heo et al., "A Comprehensive Overhaul of Feature Distillation" (arXiv 1904.01866). The authors' code
divides the sum by 1000: `weight`. Features are those before the ReLU.
"""

import torch
from torch import Tensor, nn

from kdcore.config.losses.feature import OverhaulTerm
from kdcore.losses.feature.margins import Margins
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import project, same_size, spatial_projector

__all__ = ["Overhaul", "partial_distance"]


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Sum over elements of (t' - s)^2 but 0 where s <= t' <= 0, with t' = max(t, margin); mean over samples.

    Maps [B, C, H, W] of one shape before the ReLU, margins [C, 1, 1] below zero.
    """
    student, target = wide(student), torch.maximum(wide(teacher), margin)
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).flatten(1).sum(1).mean()


class Overhaul(MapMethod[OverhaulTerm]):
    """Sum over the pairs of layers, each counting half of the next deeper one; the student's through a connector."""

    def __init__(self, term: OverhaulTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.connectors = self.for_pairs(shapes, spatial_projector)
        self.margins = nn.ModuleList(Margins(path, shapes) for path in term.teacher_paths)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        student, teacher = same_size(project(self.connectors[number], student), teacher)
        loss = partial_distance(student, teacher, self.margins[number](teacher))
        return loss / 2 ** (len(self.connectors) - 1 - number)
