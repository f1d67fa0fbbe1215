"""Weighted soft labels (WSLD): less distillation of samples that the student fits better than the teacher does.

Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective"
(arXiv 2102.00650), after public code. KL stands for the authors' cross-entropy: a constant less, the same gradient.
"""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.response import WSLDTerm
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import LogitMethod, sample_kl

__all__ = ["WeightedSoftLabels", "sample_weights", "weighted_soft_labels"]


def sample_weights(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """1 - exp(-CE_s / CE_t) [B] of logits [B, C], cross-entropies to the targets at temperature 1; no gradient."""
    ours, theirs = (functional.cross_entropy(z.detach(), targets, reduction="none") for z in (student, teacher))
    return 1 - (-ours / (theirs + 1e-7)).exp()


def weighted_soft_labels(student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T^2 w KL(softmax(z_t / T), softmax(z_s / T)) with these weights, the mean over samples."""
    weights = sample_weights(student, teacher, targets)
    return temperature**2 * (weights * sample_kl(student / temperature, teacher / temperature)).mean()


class WeightedSoftLabels(LogitMethod[WSLDTerm]):
    """The authors' weight of it beside the cross-entropy is 2.5 (`weight`)."""

    needs_one_class: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See LogitMethod."""
        return weighted_soft_labels(student, teacher, inputs.targets, self.term.temperature)
