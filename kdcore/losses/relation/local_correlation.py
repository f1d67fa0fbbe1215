"""LKD: how places of images are alike, within an image and between images.

Li et al., "Local Correlation Consistency for Knowledge Distillation" (ECCV 2020). Unverified: the three relations are
those of the abstract, means of squared differences of cosines; the class-aware attention that filters places is not
there.
"""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from kdcore.config.losses.relation import LocalCorrelationTerm
from kdcore.losses.method import LossInputs, MapMethod
from kdcore.losses.numerics import unit, wide

__all__ = ["LocalCorrelation", "local_correlation"]


def local_correlation(student: Tensor, teacher: Tensor, grid: int = 2) -> Tensor:
    """Sum of three means of (cos_s - cos_t)^2, of maps [B, C, H, W] averaged to `grid` x `grid` places.

    Places of one image; the same place of two images; other places of two images. C, H and W may differ.
    """
    apart = (_cosines(student, grid) - _cosines(teacher, grid)).square()
    batch, places = apart.shape[:2]
    image = torch.eye(batch, dtype=torch.bool, device=apart.device)[:, None, :, None].expand_as(apart)
    place = torch.eye(places, dtype=torch.bool, device=apart.device)[None, :, None].expand_as(apart)
    groups = (image, ~image & place, ~image & ~place)
    losses = [(apart * group).sum() / group.sum().clamp(min=1) for group in groups]
    return losses[0] + losses[1] + losses[2]


def _cosines(features: Tensor, grid: int) -> Tensor:
    """[B, P, B, P] of maps [B, C, H, W]."""
    places = unit(adaptive_avg_pool2d(wide(features), grid).flatten(2).mT)
    return torch.einsum("ipc,jqc->ipjq", places, places)


class LocalCorrelation(MapMethod[LocalCorrelationTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return local_correlation(student, teacher, self.term.grid)
