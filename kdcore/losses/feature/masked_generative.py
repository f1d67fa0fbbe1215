"""Masked generative distillation: from a part of the student's maps, a small network is to make the teacher's.

Yang et al., "Masked Generative Distillation" (arXiv 2205.01529), as in the authors' code: of classifiers channels are
masked, of detectors and segmenters places. Their alpha (7e-5 for classifiers) is `weight`.
"""

import torch
from torch import Tensor, nn

from kdcore.config.losses.feature_later import MaskedGenerativeTerm
from kdcore.losses.feature.fitnet import hint_loss
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.projectors import project, same_size

__all__ = ["MaskedGenerative", "masked"]


def masked(maps: Tensor, ratio: float, what: str) -> Tensor:
    """Maps [B, C, H, W] with a share `ratio` of the `channels` or `places` of each sample set to zero, at random."""
    batch, channels, *size = maps.shape
    shape = (batch, channels, 1, 1) if what == "channels" else (batch, 1, *size)
    return maps * (torch.rand(shape, device=maps.device) >= ratio)


class MaskedGenerative(MapMethod[MaskedGenerativeTerm]):
    """For each pair of layers a 1 x 1 convolution and a generator; the squared difference, summed over elements."""

    def __init__(self, term: MaskedGenerativeTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.aligners = self.for_pairs(shapes, self._aligner)
        self.generators = self.for_pairs(shapes, self._generator)

    @staticmethod
    def _aligner(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        return nn.Identity() if ours[0] == theirs[0] else nn.Conv2d(ours[0], theirs[0], 1)

    @staticmethod
    def _generator(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        first, second = (nn.Conv2d(theirs[0], theirs[0], 3, padding=1) for _ in range(2))
        return nn.Sequential(first, nn.ReLU(), second)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        ours, theirs = same_size(project(self.aligners[number], student), teacher)
        made = project(self.generators[number], masked(ours, self.term.ratio, self.term.masks))
        return 2 * hint_loss(made, theirs, "paper")
