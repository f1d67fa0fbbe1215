"""Curriculum temperature (CTKD): a temperature that is learnt to make the student's loss larger.

Li et al., "Curriculum Temperature for Knowledge Distillation" (arXiv 2211.16231), after the authors' code, one
temperature for all samples. The temperature ascends what the student descends, at a rate that rises from 0 to 1.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.losses.response import CurriculumTerm
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import LogitMethod, sample_kl

__all__ = ["Curriculum", "ascent_rate", "softened"]


def softened(student: Tensor, teacher: Tensor, temperature: Tensor) -> Tensor:
    """T^2 KL(softmax(z_t / T), softmax(z_s / T)) of logits [B, C], the mean over samples; T is a scalar tensor."""
    return temperature.square() * sample_kl(student / temperature, teacher / temperature).mean()


def ascent_rate(progress: float, ramp: float) -> float:
    """(1 - cos(pi x)) / 2, x the share of the ramp that is done: from 0 to 1, where it stays."""
    return (1 - math.cos(math.pi * min(progress / ramp, 1.0))) / 2


class Curriculum(LogitMethod[CurriculumTerm]):
    """T = lowest + span sigmoid(a), a learnt from 1 on."""

    def __init__(self, term: CurriculumTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.raw = nn.Parameter(torch.ones(()))

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        against: Any = _Ascend.apply(self.raw, ascent_rate(inputs.progress, self.term.ramp))
        return softened(student, teacher, self.term.lowest + self.term.span * torch.sigmoid(wide(against)))


class _Ascend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, rate: float) -> Tensor:
        ctx.rate = rate
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return -ctx.rate * grad_outputs[0], None
