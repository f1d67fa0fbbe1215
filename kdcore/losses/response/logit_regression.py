"""Regression of the teacher's logits.

Ba and Caruana, "Do Deep Nets Really Need to be Deep?" (arXiv 1312.6184), eq. 1. Without their means over classes it is,
but for a factor, the limit of soft targets at a high temperature (arXiv 1503.02531, section 2.1).
"""

from torch import Tensor

from kdcore.config.losses.response import LogitsTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod

__all__ = ["LogitRegression", "logit_regression"]


def logit_regression(student: Tensor, teacher: Tensor, centred: bool = False) -> Tensor:
    """Half of ||z_s - z_t||^2 of logits [B, C], the mean over samples; `centred`: without means over classes."""
    difference = student - teacher
    if centred:
        difference = difference - difference.mean(1, keepdim=True)
    return difference.square().sum(1).mean() / 2


class LogitRegression(LogitMethod[LogitsTerm]):
    """Half of the squared difference of logits."""

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return logit_regression(student, teacher, self.term.centred)
