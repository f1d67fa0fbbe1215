"""Activation boundaries: which neurons fire, with a margin, on features before the ReLU.

Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons" (arXiv 1811.03233),
the alternative loss of the authors' code. That code multiplies the sum by 3 / 1000 and trains with this loss
alone first: `weight` and `until` of the recipe.
"""

import torch
from torch import Tensor

from kdcore.config.losses.feature import ActivationBoundaryTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import project, projector, same_size
from kdcore.losses.tokens import sample_sum

__all__ = ["ActivationBoundary", "activation_boundary"]


def activation_boundary(student: Tensor, teacher: Tensor, margin: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Sum over neurons of (s + m)^2 where t <= 0 and s > -m, (s - m)^2 where t > 0 and s <= m; mean over samples.

    Features before the ReLU, [B, ...] of one shape; of tokens [B, L, D] those count where `mask` [B, L] is true.
    """
    student = wide(student)
    silent = (student + margin).clamp_min(0)
    firing = (margin - student).clamp_min(0)
    return sample_sum(torch.where(teacher > 0, firing, silent).square(), mask)


class ActivationBoundary(FeatureMethod[ActivationBoundaryTerm]):
    """Sum over the pairs of layers, each counting half of the next deeper one; the student's through a connector."""

    def __init__(self, term: ActivationBoundaryTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.connectors = self.for_pairs(shapes, projector)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        student = project(self.connectors[number], student)
        if student.dim() == 4:
            student, teacher = same_size(student, teacher)
        loss = activation_boundary(student, teacher, self.term.margin, inputs.mask_of(teacher))
        return loss / 2 ** (len(self.connectors) - 1 - number)
