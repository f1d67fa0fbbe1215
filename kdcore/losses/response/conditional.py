"""Learn from the teacher where it is right, and from the hard label where it is not.

Meng et al., "Conditional Teacher-Student Learning" (arXiv 1904.12399). Read from its abstract and the
survey's description.
"""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.response import ConditionalTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod, sample_cross_entropy

__all__ = ["Conditional", "conditional_targets"]


def conditional_targets(teacher: Tensor, targets: Tensor) -> Tensor:
    """softmax(z_t) of the samples whose best class is the target, one-hot targets of the others: [B, C]."""
    one_hot = functional.one_hot(targets, teacher.shape[1]).to(teacher.dtype)
    right = teacher.argmax(1) == targets
    return teacher.softmax(1).where(right[:, None], one_hot)


class Conditional(LogitMethod[ConditionalTerm]):
    """Cross-entropy to these targets, the mean over samples."""

    needs_one_class: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return sample_cross_entropy(student, conditional_targets(teacher, inputs.targets)).mean()
