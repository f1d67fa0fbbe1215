"""SKD's direction-wise term: the directions of a batch's logits seen from each other, whitened.

Jeong, Lee and Choi, "Streamlined Knowledge Distillation" (CVPR 2026), as torchdistill reads the paper. The authors'
code also divides both Gram matrices by the number of classes, and the loss by about two. The other term is `kl`.
Log-probabilities will not do for logits, from which they differ by a shift that makes all directions nearly one.
"""

import torch
from torch import Tensor

from kdcore.config.losses.response import DirectionTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.numerics import unit
from kdcore.losses.response.logits import LogitMethod

__all__ = ["Directions", "directions"]


def directions(student: Tensor, teacher: Tensor, tikhonov: float) -> Tensor:
    """mean_i sqrt(D_i' (Cov(D) + tikhonov I)^-1 D_i) of logits [B, C].

    D = G_s - G_t [B, B], differences of cosines; Cov(D) [B, B] that of its rows.
    """
    ours, theirs = unit(student), unit(teacher)
    difference = ours @ ours.T - theirs @ theirs.T
    centred = difference - difference.mean(0, keepdim=True)
    covariance = centred.T @ centred / max(len(student) - 1, 1)
    ridge = tikhonov * torch.eye(len(student), dtype=student.dtype, device=student.device)
    factor = torch.linalg.cholesky(covariance + ridge)
    whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)
    return torch.linalg.vector_norm(whitened, dim=0).mean()


class Directions(LogitMethod[DirectionTerm]):
    """Of the batch as a whole."""

    @classmethod
    def needs_raw_logits(cls, term: DirectionTerm) -> bool:
        """A shift turns directions, unless the logits are brought to mean 0."""
        return not term.standardise

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return directions(student, teacher, self.term.tikhonov)
