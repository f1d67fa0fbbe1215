"""Decoupled knowledge distillation (DKD): how sure of the target, and what else it might be, weighed apart.

Zhao et al., "Decoupled Knowledge Distillation" (arXiv 2203.08679), scaled by T^2 as in the authors' code.
"""

from typing import ClassVar

import torch
from torch import Tensor

from kdcore.config.losses.response import DKDTerm
from kdcore.losses.forms import KL
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod, others, sample_kl

__all__ = ["Decoupled", "decoupled", "one_or_others"]


def decoupled(
    student: Tensor, teacher: Tensor, targets: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD) of logits [B, C] and targets int64 [B], the mean over samples.

    TCKD is KL between [p_y, 1 - p_y] of both, NCKD between their softmaxes over all classes but y.
    """
    student, teacher = student / temperature, teacher / temperature
    target = KL(one_or_others(teacher, targets), one_or_others(student, targets), 2)[0]
    rest = sample_kl(others(student, targets), others(teacher, targets))
    return temperature**2 * (alpha * target + beta * rest).mean()


def one_or_others(logits: Tensor, targets: Tensor) -> Tensor:
    """[ln p_y, ln(1 - p_y)], [B, 2], of logits [B, C]: without 1 - p, which would round to 0 where p is almost 1."""
    of_target = logits.gather(1, targets[:, None])
    rest = others(logits, targets).logsumexp(1, keepdim=True)
    return torch.cat([of_target, rest], 1).log_softmax(1)


class Decoupled(LogitMethod[DKDTerm]):
    """Both parts; the authors' warm-up over 20 of 240 epochs is `warmup: 0.083`."""

    needs_one_class: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        term = self.term
        return decoupled(student, teacher, inputs.targets, term.alpha, term.beta, term.temperature)
