"""Transformed teacher matching (TTM), and weighted (WTTM): the temperature is the teacher's alone.

Zheng and Yang, "Knowledge Distillation Based on Transformed Teacher Matching" (arXiv 2402.11148), after the authors'
code.
"""

from torch import Tensor

from kdcore.config.losses.response import TTMTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod, sample_kl

__all__ = ["TransformedTeacher", "transformed_teacher"]


def transformed_teacher(student: Tensor, teacher: Tensor, exponent: float, weighted: bool) -> Tensor:
    """w KL(t^g / sum t^g, p) of logits [B, C], the mean over samples.

    t and p are softmaxes at temperature 1, g the exponent. `weighted`: w = sum t^g, larger the smoother the teacher;
    otherwise 1.
    """
    powers = exponent * teacher.log_softmax(1)
    loss = sample_kl(student, powers)
    return (powers.exp().sum(1) * loss if weighted else loss).mean()


class TransformedTeacher(LogitMethod[TTMTerm]):
    """Both kinds, by `weighted`."""

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return transformed_teacher(student, teacher, self.term.exponent, self.term.weighted)
