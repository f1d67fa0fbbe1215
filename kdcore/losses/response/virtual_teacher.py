"""Tf-KD's regularisation: a teacher made by hand, right with a probability that is set.

Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing Regularization" (arXiv 1909.11723), Tf-KD_reg. As in
the authors' code the temperature is the virtual teacher's alone, whose probabilities it takes for logits; that code's
mean over classes and its multiplier are left to `weight`.
"""

from typing import ClassVar

import torch
from torch import Tensor

from kdcore.config.losses.response import VirtualTeacherTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import sample_kl

__all__ = ["VirtualTeacher", "virtual_teacher"]


def virtual_teacher(student: Tensor, targets: Tensor, correct: float, temperature: float) -> Tensor:
    """KL(softmax(p / T), softmax(z_s)), the mean over samples; p is `correct` at the target, even elsewhere.

    Logits [B, C], targets int64 [B].
    """
    even = torch.full_like(student, (1 - correct) / max(student.shape[1] - 1, 1))
    made = even.scatter(1, targets[:, None], correct)
    return sample_kl(student, made / temperature).mean()


class VirtualTeacher(Method[VirtualTeacherTerm]):
    """No teacher is needed."""

    needs_one_class: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        return virtual_teacher(wide(inputs.student_logits), inputs.targets, self.term.correct, self.term.temperature)
