"""Gradient-based attention transfer: which pixels the loss depends on.

Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), section 3.2.
"""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.attention import GradientAttentionTerm
from kdcore.losses.attention.input_gradients import InputGradientMethod
from kdcore.losses.numerics import wide

__all__ = ["GradientAttention", "gradient_attention"]


def gradient_attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Half of ||J_s - J_t||^2 of gradients [B, P], the mean over samples."""
    return (student - teacher).square().sum(1).mean() / 2


class GradientAttention(InputGradientMethod[GradientAttentionTerm]):
    """Of the cross-entropy of each sample to its hard label."""

    needs_one_class: ClassVar[bool] = True

    def scores(self, logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """See InputGradientMethod."""
        return functional.cross_entropy(wide(logits), targets, reduction="none")

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See InputGradientMethod."""
        return gradient_attention(student, teacher)
