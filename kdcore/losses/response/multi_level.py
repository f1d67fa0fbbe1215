"""Multi-level logit distillation: each sample, how samples are alike, how classes are alike, at several temperatures.

Jin, Wang and Lin, "Multi-Level Logit Distillation" (CVPR 2023), after the authors' code, where each sample is
scaled by T^2. That code also multiplies by its mean share of unsure samples, a constant of about one half, which is
left out here; its second, strongly augmented view is the data's affair.
"""

from torch import Tensor

from kdcore.config.losses.response import MultiLevelTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod, sample_kl

__all__ = ["MultiLevel", "class_level", "pair_level"]


def pair_level(p: Tensor, t: Tensor) -> Tensor:
    """||P P' - T T'||_F^2 / B of probabilities [B, C]."""
    return (p @ p.T - t @ t.T).square().sum() / len(p)


def class_level(p: Tensor, t: Tensor) -> Tensor:
    """||P' P - T' T||_F^2 / C of probabilities [B, C]."""
    return (p.T @ p - t.T @ t).square().sum() / p.shape[1]


class MultiLevel(LogitMethod[MultiLevelTerm]):
    """The sum over temperatures of samples x T^2 KL, the mean over samples, and of the other two."""

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        total = student.new_zeros(())
        for temperature in self.term.temperatures:
            ours, theirs = student / temperature, teacher / temperature
            p, t = ours.softmax(1), theirs.softmax(1)
            total = total + self.term.samples * temperature**2 * sample_kl(ours, theirs).mean()
            total = total + self.term.pairs * pair_level(p, t) + self.term.classes * class_level(p, t)
        return total
