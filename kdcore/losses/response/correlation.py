"""DIST: a stronger teacher's order of classes and of samples, not its values.

Huang et al., "Knowledge Distillation from A Stronger Teacher" (arXiv 2205.10536), scaled by T^2 as in the authors'
code.
"""

from torch import Tensor

from kdcore.config.losses.response import DISTTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.numerics import unit
from kdcore.losses.response.logits import LogitMethod

__all__ = ["Correlation", "correlation", "pearson"]


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Pearson correlation over the last dimension; 0, without a gradient, where one of both is constant."""
    one, other = (unit(values - values.mean(-1, keepdim=True)) for values in (one, other))
    return (one * other).sum(-1)


def correlation(student: Tensor, teacher: Tensor, beta: float, gamma: float, temperature: float) -> Tensor:
    """T^2 [beta (1 - mean r of rows) + gamma (1 - mean r of columns)] of softmaxes at T of logits [B, C]."""
    p, t = ((logits / temperature).softmax(1) for logits in (student, teacher))
    within_samples, within_classes = 1 - pearson(p, t).mean(), 1 - pearson(p.T, t.T).mean()
    return temperature**2 * (beta * within_samples + gamma * within_classes)


class Correlation(LogitMethod[DISTTerm]):
    """Of the batch as a whole: its samples are the other half of what is compared."""

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return correlation(student, teacher, self.term.beta, self.term.gamma, self.term.temperature)
