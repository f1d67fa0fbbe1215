"""Jacobian matching: the direction in pixels that changes the teacher's best logit.

Srinivas and Fleuret, "Knowledge Transfer with Jacobian Matching" (arXiv 1803.00443), the normalised form of the row of
the largest output. Read from descriptions and other people's code, not from the paper: unverified.
"""

from torch import Tensor

from kdcore.config.losses.attention import JacobianTerm
from kdcore.losses.attention.input_gradients import InputGradientMethod
from kdcore.losses.numerics import unit

__all__ = ["JacobianMatching", "jacobian_matching"]


def jacobian_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """||J_s / ||J_s|| - J_t / ||J_t|| ||^2 of gradients [B, P], the mean over samples; zeros stay zeros."""
    return (unit(student) - unit(teacher)).square().sum(1).mean()


class JacobianMatching(InputGradientMethod[JacobianTerm]):
    """Of the logit that is the teacher's largest, in both networks."""

    def scores(self, logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """See InputGradientMethod."""
        return logits.gather(1, teacher_logits.argmax(1, keepdim=True))[:, 0]

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See InputGradientMethod."""
        return jacobian_matching(student, teacher)
