"""AE-KD: teachers that disagree are weighed by what their gradients have in common.

Du et al., "Agree to Disagree: Adaptive Ensemble Knowledge Distillation in Gradient Space" (NeurIPS 2020), eq. 7: with
g_m the gradient of teacher m's loss with respect to the student's logits of a batch, the shares are
argmin |sum_m a_m g_m|^2 / 2 over sum_m a_m = 1 and 0 <= a_m <= C. C = 1 is the least common descent direction, and
C = 1 / M the mean. The loss is sum_m a_m L_m, the shares without a gradient.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcore.config.losses.teachers import GradientSpaceTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import sample_kl

__all__ = ["GradientSpace", "capped_simplex", "shortest"]

_STEPS, _ENOUGH = 1000, 1e-10


def capped_simplex(point: np.ndarray, most: float) -> np.ndarray:
    """The nearest point of {a: sum a = 1, 0 <= a <= most} to `point` float64 [M], where M most >= 1.

    It is clamp(point - t, 0, most) for the t at which the sum is one. The sum falls in straight lines between values of
    t where an entry reaches 0 or `most`.
    """
    bends = np.sort(np.concatenate([point, point - most]))[::-1]
    sums = np.clip(point - bends[:, None], 0, most).sum(1)
    return np.clip(point - np.interp(1.0, sums, bends), 0, most)


def shortest(products: Tensor, tolerance: float) -> Tensor:
    """The shares float64 [M] of M gradients whose scalar products are `products` [M, M]; none above `tolerance`.

    A tolerance below 1 / M leaves nothing to choose: equal shares. By projected gradients with momentum (Beck and
    Teboulle 2009) that begins anew where it leads astray (O'Donoghue and Candès 2015), on the host: a few numbers.
    """
    given = products.double().cpu().numpy()
    count, bend = len(given), float(np.linalg.norm(given, 2))
    shares = ahead = np.full(count, 1 / count)
    if tolerance * count <= 1 or not bend > 0:
        return torch.from_numpy(shares)
    pace = 1.0
    for _ in range(_STEPS):
        last, shares = shares, capped_simplex(ahead - given @ ahead / bend, tolerance)
        still = np.abs(shares - last).max() < _ENOUGH
        if still and pace == 1:
            break
        # Momentum can hold shares at a bound that is not the best, so that standing still is no end.
        if still or (ahead - shares) @ (shares - last) > 0:
            ahead, pace = shares, 1.0
            continue
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, pace = shares + (pace - 1) / faster * (shares - last), faster
    return torch.from_numpy(shares)


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
        """Of logits [B, C] over the temperature: float64 [M], on the CPU."""
        with torch.no_grad():
            ours = student.softmax(-1)
            gradients = torch.stack([(ours - teacher.softmax(-1)).flatten() for teacher in teachers]).double()
            return shortest(gradients @ gradients.T, self.term.tolerance)
