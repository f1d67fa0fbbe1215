"""SP: which samples of a batch are alike.

Tung and Mori, "Similarity-Preserving Knowledge Distillation" (arXiv 1907.09682), as in RepDistiller, which the authors
checked. torchdistill 1.1 divides rows by the sum of their absolute values in place of their length.
"""

from torch import Tensor

from kdcore.config.losses.relation import SimilarityPreservingTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.numerics import unit
from kdcore.losses.relation.geometry import rows

__all__ = ["SimilarityPreserving", "similarity_preserving"]


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / B^2) ||G_s - G_t||_F^2 of features [B, ...], G = F F^T with rows of length one; all other shapes may differ.

    A product of samples, so that a batch that is twice as large has a loss that is about half as large.
    """
    return (_similarities(student) - _similarities(teacher)).square().mean()


def _similarities(features: Tensor) -> Tensor:
    vectors = rows(features)
    return unit(vectors @ vectors.mT)


class SimilarityPreserving(FeatureMethod[SimilarityPreservingTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return similarity_preserving(student, teacher)
