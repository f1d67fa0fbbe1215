"""AE-KD: teachers that disagree are weighed by what their gradients have in common.

Du et al., "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space" (NeurIPS 2020), eq. 7: with
g_m the gradient of teacher m's loss with respect to the student's logits of a batch, the shares are
argmin |sum_m a_m g_m|^2 / 2 over sum_m a_m = 1 and 0 <= a_m <= C. C = 1 is the least common descent direction, and
C = 1 / M the mean. The loss is sum_m a_m L_m, the shares without a gradient.
"""

from typing import ClassVar

import torch
from torch import Tensor

from kdcore.config.losses.teachers import GradientSpaceTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import sample_kl

__all__ = ["GradientSpace", "capped_simplex", "shortest"]

_HALVINGS, _STEPS = 60, 300


def capped_simplex(point: Tensor, most: float) -> Tensor:
    """The nearest point of {a: sum a = 1, 0 <= a <= most} to `point` [M] float64, where M most >= 1.

    a = clamp(point - t, 0, most) for the t whose sum is one, found by halving (the sum falls as t rises).
    """
    low, high = point.min() - 1, point.max()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = (point - middle).clamp(0, most).sum() > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (point - (low + high) / 2).clamp(0, most)


def shortest(products: Tensor, tolerance: float) -> Tensor:
    """The shares float64 [M] of M gradients whose scalar products are `products` [M, M]; none above `tolerance`.

    A tolerance below 1 / M leaves nothing to choose: equal shares. By projected gradients with momentum (Beck and
    Teboulle 2009), which for a few teachers is a matter of microseconds a step.
    """
    count = len(products)
    equal = products.new_full((count,), 1 / count, dtype=torch.float64)
    bend = torch.linalg.matrix_norm(products.double(), 2)
    if tolerance * count <= 1 or not bool(bend > 0):
        return equal
    scaled = products.double() / bend
    shares, ahead, pace = equal, equal, 1.0
    for _ in range(_STEPS):
        last, shares = shares, capped_simplex(ahead - scaled @ ahead, tolerance)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, pace = shares + (pace - 1) / faster * (shares - last), faster
    return shares


class GradientSpace(Method[GradientSpaceTerm]):
    """The soft targets of all teachers, T^2 KL each."""

    hears_all: ClassVar[bool] = True
    needs_teacher_logits: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """The mean over samples, of the shares of this micro-batch."""
        heat = self.term.temperature
        student = wide(inputs.student_logits) / heat
        said = [wide(one.logits) / heat for one in inputs.teachers if one.logits is not None]
        losses = torch.stack([heat**2 * sample_kl(student, teacher).mean() for teacher in said])
        return (self.shares(student, said).to(losses) * losses).sum()

    def shares(self, student: Tensor, teachers: list[Tensor]) -> Tensor:
        """Of logits [B, C] over the temperature: float64 [M], on the CPU, where a few numbers are sooner dealt with."""
        with torch.no_grad():
            ours = student.softmax(-1)
            gradients = torch.stack([(ours - teacher.softmax(-1)).flatten() for teacher in teachers]).double()
            return shortest((gradients @ gradients.T).cpu(), self.term.tolerance)
