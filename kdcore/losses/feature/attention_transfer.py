"""Attention transfer: where activations are large.

Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv 1612.03928), eq. 2. The authors' code differs from
it: the mean over channels (no difference, since maps are normalised), and the mean of squared differences, where the
paper has the length of the difference. `mode` says which.
"""

import torch
from torch import Tensor

from kdcore.config.losses.feature import AttentionTransferTerm
from kdcore.losses.method import LossInputs, MapMethod
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import same_size

__all__ = ["AttentionTransfer", "attention_map", "attention_transfer"]


def attention_map(features: Tensor, power: float = 2.0, channels: str = "mean") -> Tensor:
    """Q [B, H * W] of features [B, C, H, W]: the `mean` or `max` of |f|^power over C, as a vector of length one."""
    strength = wide(features).abs().pow(power)
    return unit((strength.amax(1) if channels == "max" else strength.mean(1)).flatten(1))


def attention_transfer(
    student: Tensor, teacher: Tensor, mode: str = "code", power: float = 2.0, channels: str = "mean"
) -> Tensor:
    """mean (Q_s - Q_t)^2 or, as the paper has it, the mean over samples of ||Q_s - Q_t||_2.

    Features are [B, C, H, W]; C may differ, H and W are brought to the smaller map's.
    """
    ours, theirs = (attention_map(features, power, channels) for features in same_size(student, teacher))
    if mode == "paper":
        return torch.linalg.vector_norm(ours - theirs, dim=1).mean()
    return (ours - theirs).square().mean()


class AttentionTransfer(MapMethod[AttentionTransferTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return attention_transfer(student, teacher, self.term.mode, self.term.power, self.term.channels)
