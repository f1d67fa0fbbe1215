"""What losses of logits share: their inputs, logit standardisation, the KL of each sample.

Sun et al., "Logit Standardization in Knowledge Distillation" (arXiv 2403.01427), with the epsilon of the authors' code.
"""

from abc import abstractmethod
from typing import ClassVar, TypeVar

from torch import Tensor

from kdcore.config.losses.response import LogitTerm
from kdcore.losses.forms import KL
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide

__all__ = ["LogitMethod", "others", "sample_cross_entropy", "sample_kl", "standardised"]

LogitTermT = TypeVar("LogitTermT", bound=LogitTerm)


class LogitMethod(Method[LogitTermT]):
    """A loss of the logits of both networks, standardised where the term says so."""

    needs_teacher_logits: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of what both networks say."""
        assert inputs.teacher_logits is not None
        both = (wide(logits) for logits in (inputs.student_logits, inputs.teacher_logits))
        student, teacher = (standardised(logits) if self.term.standardise else logits for logits in both)
        return self.compare(student, teacher, inputs)

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """The loss, a scalar, of logits [B, C] in float32 or float64."""


def standardised(logits: Tensor) -> Tensor:
    """(z - mean) / (deviation + 1e-7) over the classes of each sample, [B, C]; equal logits become zeros."""
    centred = logits - logits.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / max(logits.shape[-1] - 1, 1)
    alike = variance == 0
    return centred / (variance.masked_fill(alike, 1.0).sqrt() + 1e-7)


def sample_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher), softmax(student)) of each sample [B]; logits [B, C], divided by a temperature or not."""
    return KL(teacher.log_softmax(-1), student.log_softmax(-1), student.shape[-1])[0]


def sample_cross_entropy(student: Tensor, probabilities: Tensor) -> Tensor:
    """-sum_c p_c ln softmax(student)_c of each sample [B]; logits and probabilities [B, C]."""
    return -(probabilities * student.log_softmax(-1)).sum(-1)


def others(logits: Tensor, targets: Tensor) -> Tensor:
    """The logits [B, C - 1] of all classes but the target, in their order."""
    batch, classes = logits.shape
    kept = logits.new_ones(batch, classes).scatter(1, targets[:, None], 0.0).bool()
    return logits[kept].view(batch, classes - 1)
