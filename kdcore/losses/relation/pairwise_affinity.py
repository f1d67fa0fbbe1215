"""How alike the places of one map are.

Liu et al., "Structured Knowledge Distillation for Semantic Segmentation" (arXiv 1903.04197), the pair-wise term, as in
the authors' code, which lets no gradient through the lengths of features.
"""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from kdcore.config.losses.relation import PairwiseAffinityTerm
from kdcore.losses.method import LossInputs, MapMethod
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import same_size

__all__ = ["PairwiseAffinity", "pairwise_affinity"]

# As in the authors' code.
_LEAST = 1e-8


def pairwise_affinity(student: Tensor, teacher: Tensor, patch: float = 0.5) -> Tensor:
    """(1 / P^2) ||A_s - A_t||_F^2, the mean over samples, A [P, P] cosines of P patches of maps [B, C, H, W].

    A patch is `patch` of the height and width, of which each channel's maximum is taken. C may differ; the larger map
    is averaged to the other's H and W first.
    """
    ours, theirs = (_affinities(one, patch) for one in same_size(wide(student), wide(teacher)))
    return (ours - theirs).square().mean()


def _affinities(features: Tensor, patch: float) -> Tensor:
    sides = [max(1, int(side * patch)) for side in features.shape[2:]]
    places = max_pool2d(features, sides, sides, ceil_mode=True).flatten(2)
    directions = places / (torch.linalg.vector_norm(places.detach(), dim=1, keepdim=True) + _LEAST)
    return directions.mT @ directions


class PairwiseAffinity(MapMethod[PairwiseAffinityTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return pairwise_affinity(student, teacher, self.term.patch)
