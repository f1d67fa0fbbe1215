"""AMTML-KD: what share of a sample each of several teachers has is learnt, from the student's features of it.

Liu et al., "Adaptive Multi-Teacher Multi-level Knowledge Distillation" (arXiv 2103.04062), section 3.2: a score of each
teacher for the features of a sample, a softmax over teachers, and soft targets of the weighted mean. Its multi-level
hints are terms of their own (`fitnet`, each with its `teacher`), its angles `rkd`. Scores are linear in the features at
length sqrt(D), which get no gradient here, and begin at zero: equal shares. The divergence moves the student alone: by
it a share would go to the teacher that the student is nearest to already (measured). `truth` moves the shares.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.teachers import LearnedWeightsTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import pooled, pooled_width, project

__all__ = ["LearnedWeights", "weighted_targets"]


def weighted_targets(
    student: Tensor, teachers: Tensor, log_shares: Tensor, targets: Tensor, temperature: float, truth: float
) -> Tensor:
    """T^2 KL(sum_m w_m p_m^T, softmax(z / T)) - truth ln sum_m w_m p_m(target), the mean over samples.

    `student` [B, C] and `teachers` [M, B, C] are logits, `log_shares` [M, B] are ln w, `targets` int64 [B]. The first
    has a gradient in the student alone.
    """

    def mean(heat: float) -> Tensor:
        return torch.logsumexp(log_shares[:, :, None] + (teachers / heat).log_softmax(-1), 0)

    soft, ours = mean(temperature).detach(), (student / temperature).log_softmax(-1)
    distance = temperature**2 * (soft.exp() * (soft - ours)).sum(-1).mean()
    return distance + truth * functional.nll_loss(mean(1.0), targets)


class LearnedWeights(Method[LearnedWeightsTerm]):
    """A score of each teacher, for the features of the student at `at`."""

    hears_all: ClassVar[bool] = True
    needs_teacher_logits: ClassVar[bool] = True
    needs_one_class: ClassVar[bool] = True

    def __init__(self, term: LearnedWeightsTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        for path in term.at:
            if len(shapes.student[path]) == 2:
                raise ConfigError(f"this loss looks at maps or vectors of a sample, and '{path}' gives tokens")
        width = sum(pooled_width(shapes.student[path]) for path in term.at)
        self.scores = nn.Linear(width, len(shapes.teachers))
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def shares(self, inputs: LossInputs) -> Tensor:
        """ln of the share of each teacher in each sample, [M, B]."""
        features = torch.cat([pooled(inputs.student[path].detach()) for path in self.term.at], 1)
        seen = unit(features) * features.shape[1] ** 0.5
        return project(self.scores, seen).log_softmax(1).T

    def forward(self, inputs: LossInputs) -> Tensor:
        """See `weighted_targets`."""
        said = torch.stack([wide(one.logits) for one in inputs.teachers if one.logits is not None])
        student, term = wide(inputs.student_logits), self.term
        return weighted_targets(student, said, self.shares(inputs), inputs.targets, term.temperature, term.truth)
