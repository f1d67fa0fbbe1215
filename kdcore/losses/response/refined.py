"""Refined logit distillation (RLD): how sure the teacher is, and how it orders what it thinks less of than the target.

Sun et al., "Knowledge Distillation with Refined Logits" (arXiv 2408.07703), after the authors' code.
"""

from typing import ClassVar

from torch import Tensor

from kdcore.config.losses.response import RLDTerm
from kdcore.losses.forms import KL
from kdcore.losses.method import LossInputs
from kdcore.losses.response.decoupled import one_or_others
from kdcore.losses.response.logits import LogitMethod, sample_kl

__all__ = ["Refined", "masked_kl", "sure_kl"]


def sure_kl(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """KL between [q, 1 - q] and [p_y, 1 - p_y], of each sample [B] of logits [B, C]; q the teacher's best class's."""
    return KL(one_or_others(teacher, teacher.argmax(1)), one_or_others(student, targets), 2)[0]


def masked_kl(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """KL among the classes that the teacher thinks less of than the target, of each sample [B]; 0 where none is."""
    out = teacher >= teacher.gather(1, targets[:, None])
    out = out & ~out.all(1, keepdim=True)
    none = ~out.any(1)
    ours, theirs = (logits.masked_fill(out, float("-inf")) for logits in (student, teacher))
    return sample_kl(ours, theirs).masked_fill(none, 0.0)


class Refined(LogitMethod[RLDTerm]):
    """alpha U^2 `sure_kl` at temperature U + beta T^2 `masked_kl` at temperature T, the mean over samples."""

    needs_one_class: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        sure, soft = self.term.sure_temperature, self.term.temperature
        of_best = sure**2 * sure_kl(student / sure, teacher / sure, inputs.targets)
        of_rest = soft**2 * masked_kl(student / soft, teacher / soft, inputs.targets)
        return (self.term.alpha * of_best + self.term.beta * of_rest).mean()
