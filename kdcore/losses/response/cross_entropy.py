"""Cross-entropy to the hard label, with label smoothing: a control beside every distillation loss (survey, 2.1)."""

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.response import CrossEntropyTerm
from kdcore.losses.method import LossInputs, Method

__all__ = ["CrossEntropy"]


class CrossEntropy(Method[CrossEntropyTerm]):
    """CE((1 - smoothing) y + smoothing / C, softmax(z_s)), the mean over samples."""

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        return functional.cross_entropy(
            inputs.student_logits.float(), inputs.targets, label_smoothing=self.term.smoothing
        )
