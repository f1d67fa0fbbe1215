"""Neuron selectivity transfer: channels are samples of a distribution over places; the two distributions are matched.

Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer" (arXiv 1707.01219): the
squared maximum mean discrepancy of channel maps of length one.
"""

import torch
from torch import Tensor

from kdcore.config.losses.feature import NeuronSelectivityTerm
from kdcore.losses.method import LossInputs, MapMethod
from kdcore.losses.numerics import unit
from kdcore.losses.projectors import same_size

__all__ = ["NeuronSelectivity", "neuron_selectivity"]


def _kernel(products: Tensor, kernel: str, width: Tensor | float) -> Tensor:
    """k(a, b) from the inner products a^T b of vectors of length one."""
    if kernel == "linear":
        return products
    if kernel == "polynomial":
        return products.square()
    return torch.exp((products - 1) / width)


def neuron_selectivity(student: Tensor, teacher: Tensor, kernel: str = "polynomial") -> Tensor:
    """mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over pairs of channels, and the mean over samples.

    Features are [B, C, H, W], C may differ. Kernels: `linear` a^T b, `polynomial` (a^T b)^2, `gaussian`
    exp(-||a - b||^2 / (2 w)), w the mean of ||s - t||^2 over the pairs of a sample, taken as a constant (that choice is
    unverified).
    """
    ours, theirs = (unit(features.flatten(2)) for features in same_size(student, teacher))
    across = ours @ theirs.transpose(1, 2)
    # Of vectors of length one, ||a - b||^2 = 2 - 2 a^T b.
    width = (2 - 2 * across.detach()).mean((1, 2), keepdim=True).clamp_min(1e-6)
    own, other = (_kernel(one @ one.transpose(1, 2), kernel, width) for one in (ours, theirs))
    return own.mean() + other.mean() - 2 * _kernel(across, kernel, width).mean()


class NeuronSelectivity(MapMethod[NeuronSelectivityTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return neuron_selectivity(student, teacher, self.term.kernel)
