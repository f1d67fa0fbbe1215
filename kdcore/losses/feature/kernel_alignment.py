"""Centred kernel alignment: which samples of a batch are alike, whatever the width, rotation and scale of features.

Kornblith et al., "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414), with linear kernels; one
minus it is the loss.
"""

from torch import Tensor

from kdcore.config.losses.feature_later import KernelAlignmentTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.numerics import unit, wide

__all__ = ["KernelAlignment", "kernel_alignment"]


def _centred(features: Tensor) -> Tensor:
    """The Gram matrix [B * B] of features [B, ...] without their mean over the batch, as a vector of length one."""
    flat = wide(features).flatten(1)
    flat = flat - flat.mean(0)
    return unit((flat @ flat.T).flatten())


def kernel_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - CKA of features [B, ...], in [0, 1]; a value of the batch as a whole."""
    return 1 - (_centred(student) * _centred(teacher)).sum()


class KernelAlignment(FeatureMethod[KernelAlignmentTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return kernel_alignment(student, teacher)
