"""Normalised knowledge distillation (NKD): the target weighed by the teacher, the others as a distribution.

Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
Customized Soft Labels" (arXiv 2303.13005), after the authors' code.
"""

from typing import ClassVar

from torch import Tensor

from kdcore.config.losses.response import NKDTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod, others, sample_cross_entropy

__all__ = ["Normalised", "normalised"]


def normalised(student: Tensor, teacher: Tensor, targets: Tensor, gamma: float, temperature: float) -> Tensor:
    """-t_y ln s_y - gamma T^2 sum t^_i ln s^_i of logits [B, C] and targets int64 [B], the mean over samples.

    t and s are the softmaxes at temperature 1; t^ and s^ those at T over all classes i but y.
    """
    log_s, t = (values.gather(1, targets[:, None])[:, 0] for values in (student.log_softmax(1), teacher.softmax(1)))
    probabilities = (others(teacher, targets) / temperature).softmax(1)
    rest = sample_cross_entropy(others(student, targets) / temperature, probabilities)
    return (gamma * temperature**2 * rest - t * log_s).mean()


class Normalised(LogitMethod[NKDTerm]):
    """Beside the cross-entropy to the hard label."""

    needs_one_class: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return normalised(student, teacher, inputs.targets, self.term.gamma, self.term.temperature)
