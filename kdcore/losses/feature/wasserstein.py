"""Wasserstein distance of features: maps as samples of Gaussians with diagonal covariance.

Lv, Yang and Li, "Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation"
(arXiv 2412.08139), WKD-F as in the authors' code: means and standard deviations of channels, over all places or the
cells of a grid.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.feature_later import WassersteinTerm
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import project, same_size, spatial_projector

__all__ = ["Wasserstein", "channel_statistics", "gaussian_distance"]

SMALLEST_VARIANCE = 1e-5


def channel_statistics(maps: Tensor, grid: int = 1) -> tuple[Tensor, Tensor]:
    """Means and deviations [B, C, grid, grid] of maps [B, C, H, W] over the n places of a cell; variance by n - 1."""
    maps = wide(maps)
    mean = functional.adaptive_avg_pool2d(maps, grid)
    # A variance does not see a shift, and squares of what is centred lose fewer digits.
    centred = maps - maps.mean((2, 3), keepdim=True).detach()
    places = _places(maps.shape[2], grid, maps)[:, None] * _places(maps.shape[3], grid, maps)
    squares, means = (functional.adaptive_avg_pool2d(one, grid) for one in (centred.square(), centred))
    variance = (squares - means.square()).clamp_min(0) * places / (places - 1).clamp_min(1)
    return mean, (variance + SMALLEST_VARIANCE).sqrt()


def _places(size: int, grid: int, like: Tensor) -> Tensor:
    """How many places each cell of a side has, [grid]."""
    bounds = [(cell * size // grid, -(-(cell + 1) * size // grid)) for cell in range(grid)]
    return torch.tensor([float(stop - start) for start, stop in bounds], dtype=like.dtype, device=like.device)


def gaussian_distance(student: Tensor, teacher: Tensor, grid: int = 1, mean_ratio: float = 4.0) -> Tensor:
    """ratio ||mu_s - mu_t||^2 + ||sigma_s - sigma_t||^2 of maps [B, C, H, W]: sum over channels, mean over the rest."""
    means, deviations = zip(channel_statistics(student, grid), channel_statistics(teacher, grid), strict=True)
    gaps = [(ours - theirs).square().sum(1).mean() for ours, theirs in (means, deviations)]
    return mean_ratio * gaps[0] + gaps[1]


class Wasserstein(MapMethod[WassersteinTerm]):
    """A projector for each pair of layers, and the sum of their losses."""

    def __init__(self, term: WassersteinTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.projectors = self.for_pairs(shapes, self._projector)

    @staticmethod
    def _projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(spatial_projector(ours, theirs), nn.ReLU())

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        ours, theirs = same_size(project(self.projectors[number], student), teacher)
        return gaussian_distance(ours, theirs, self.term.grid, self.term.mean_ratio)
