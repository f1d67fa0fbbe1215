"""Ranking distillation: what the teacher puts first is as good as chosen.

Tang and Wang, "Ranking Distillation: Learning Compact Ranking Models With High Performance for Recommender System"
(arXiv 1809.07428), with both weights of the authors' code; the student's rank is counted over all items, not sampled.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kdcore.config.losses.relation import RankingTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide

__all__ = ["Ranking", "ranking_loss"]


def ranking_loss(
    student: Tensor, teacher: Tensor, items: int = 10, sharpness: float = 1.0, discrepancy: float | None = 0.1
) -> Tensor:
    """-sum over the teacher's first items r = 1, 2, ... of w_r log sigmoid(student's score), the mean over samples.

    Scores [B, C]. w_r falls as exp(-r / sharpness), adding up to one; with `discrepancy` d it is multiplied by
    tanh(d (student's rank of the item - r)), ranks from 1, or 0 where that is negative. Weights have no gradient.
    """
    student = wide(student)
    order = wide(teacher).argsort(dim=1, descending=True, stable=True)[:, :items]
    scores = student.gather(1, order)
    places = torch.arange(1, order.shape[1] + 1, device=order.device, dtype=scores.dtype)
    weights = (-places / sharpness).softmax(0).expand_as(scores)
    if discrepancy is not None:
        above = (student.detach()[:, None] > scores.detach()[:, :, None]).sum(2)
        weights = weights * (discrepancy * (above + 1 - places)).tanh().clamp(min=0)
    return (weights * softplus(-scores)).sum() / len(scores)


class Ranking(Method[RankingTerm]):
    """Of the logits, one an item."""

    needs_teacher_logits: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        assert inputs.teacher_logits is not None
        late = inputs.progress >= self.term.discrepancy_after
        discrepancy = self.term.discrepancy if late else None
        return ranking_loss(
            inputs.student_logits, inputs.teacher_logits, self.term.items, self.term.sharpness, discrepancy
        )
