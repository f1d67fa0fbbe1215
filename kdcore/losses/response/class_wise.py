"""CS-KD, class-wise self-distillation: another sample of the same class is the teacher.

Yun et al., "Regularizing Class-wise Predictions via Self-knowledge Distillation" (arXiv 2003.13964), after the authors'
code, which draws the other sample for it. Here it is the next of the same class in the batch, so that batches should
have several of each class, and a sample that is alone in its class adds nothing.
"""

from typing import ClassVar

import torch
from torch import Tensor

from kdcore.config.losses.response import ClassWiseTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import sample_kl

__all__ = ["ClassWise", "class_wise", "partners"]


def partners(targets: Tensor) -> Tensor:
    """The number in the batch of the next sample of the same class, around the end; its own where there is none."""
    number = torch.arange(len(targets), device=targets.device)
    steps = (number[None] - number[:, None] - 1) % len(targets) + 1
    return steps.masked_fill(targets[:, None] != targets[None], len(targets) + 1).argmin(1)


def class_wise(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(z' / T), softmax(z / T)) of logits [B, C], the mean over samples; z' the partner's, fixed."""
    softer = student / temperature
    return temperature**2 * sample_kl(softer, softer.detach()[partners(targets)]).mean()


class ClassWise(Method[ClassWiseTerm]):
    """No teacher is needed."""

    needs_one_class: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        return class_wise(wide(inputs.student_logits), inputs.targets, self.term.temperature)
