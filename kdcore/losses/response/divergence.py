"""Soft targets, and the other divergences of softened distributions.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (arXiv 1503.02531), section 2; the other
divergences and their papers are in kdcore/losses/forms.
"""

from torch import Tensor

from kdcore.config.loss import LabelKind, loss_misfit, needs_teacher_mass
from kdcore.config.losses.response import SoftTargetsTerm
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.forms import form_of
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.objective import Objective
from kdcore.losses.response.logits import LogitMethod
from kdcore.losses.response.soft_targets import soft_target_loss

__all__ = ["Divergence"]


class Divergence(LogitMethod[SoftTargetsTerm]):
    """T^2 D(softmax(z_t / T), softmax(z_s / T)), the mean over samples; the term's type is D."""

    def __init__(self, term: SoftTargetsTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.objective = Objective(form_of(term.type, **term.parameters), temperature=term.temperature)

    @classmethod
    def takes_labels(cls, term: SoftTargetsTerm, kind: LabelKind) -> bool:
        """Where the divergence is defined for them."""
        infinite = needs_teacher_mass(term.type, term.parameters)
        return not term.standardise and loss_misfit(kind, term.type, infinite, term.temperature, None) is None

    def forward(self, inputs: LossInputs) -> Tensor:
        """See LogitMethod; of labels that name few classes their cells are compared."""
        if inputs.teacher_logits is not None or inputs.labels is None:
            return super().forward(inputs)
        return self._mean(inputs.student_logits, inputs.labels, inputs)

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return self._mean(student, DenseLabels(teacher.log_softmax(-1)), inputs)

    def _mean(self, student: Tensor, labels: SoftLabels, inputs: LossInputs) -> Tensor:
        total, _ = soft_target_loss(student, labels, inputs.targets, objective=self.objective)
        return total / len(student)
