"""Attention transfer: where activations are large.

Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), eq. 2 in the form of the authors'
code: the mean over channels, and the mean of squared differences.
"""

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.feature import AttentionTransferTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.projectors import same_size

__all__ = ["AttentionTransfer", "attention_map", "attention_transfer"]


def attention_map(features: Tensor) -> Tensor:
    """Q [B, H * W] of features [B, C, H, W]: the mean square of the channels, as a vector of length one."""
    return functional.normalize(features.float().square().mean(1).flatten(1), dim=1)


def attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """mean (Q_s - Q_t)^2 of features [B, C, H, W]; C may differ, H and W are brought to the smaller map's."""
    ours, theirs = same_size(student, teacher)
    return (attention_map(ours) - attention_map(theirs)).square().mean()


class AttentionTransfer(FeatureMethod[AttentionTransferTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return attention_transfer(student, teacher)
