"""Cross-entropy to the hard label, with label smoothing: a control beside every distillation loss (survey, 2.1)."""

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.response import CrossEntropyTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide
from kdcore.losses.response.mixed_targets import partner_excess

__all__ = ["CrossEntropy"]


class CrossEntropy(Method[CrossEntropyTerm]):
    """CE((1 - smoothing) y + smoothing / C, softmax(z_s)), the mean over samples; mixed pictures have two classes."""

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        logits, smoothing = wide(inputs.student_logits), self.term.smoothing
        loss = functional.cross_entropy(logits, inputs.targets, label_smoothing=smoothing)
        if inputs.partner_targets is None or inputs.shares is None:
            return loss
        excess = partner_excess(logits, inputs.targets, inputs.partner_targets, inputs.shares)
        return loss + (1 - smoothing) * excess / len(logits)
