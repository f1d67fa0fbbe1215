"""The mean of a channel's negative values: what a margin ReLU lets through. For losses of features before the ReLU."""

import math

import torch
from torch import Tensor, nn

from kdcore.losses.method import Shapes
from kdcore.losses.numerics import Exact, wide
from kdcore.taps import layer_of

__all__ = ["Margins", "margin_of_norm"]

RARELY_NEGATIVE = 1e-3


def margin_of_norm(norm: nn.BatchNorm2d) -> Tensor:
    """E[x | x < 0] [C] of a normal x with the mean and deviation that a BatchNorm has learnt.

    Where a channel is hardly ever negative, minus three deviations, as in the code of Heo et al. (arXiv 1904.01866).
    """
    mean, deviation = norm.bias.detach().double(), norm.weight.detach().double().abs().clamp_min(1e-12)
    score = mean / deviation
    below = 0.5 * torch.erfc(score / math.sqrt(2))
    density = torch.exp(-0.5 * score.square()) / math.sqrt(2 * math.pi)
    tail = mean - deviation * density / below.clamp_min(RARELY_NEGATIVE)
    return torch.where(below > RARELY_NEGATIVE, tail, -3 * deviation).float()


class Margins(Exact):
    """The margins [C, 1, 1] of one layer of the teacher: its BatchNorm's, or the mean of what was seen so far.

    The second where the tapped layer is no BatchNorm or the teacher is not live; each rank then sees its own samples.
    """

    total: Tensor
    count: Tensor
    known: Tensor

    def __init__(self, path: str, shapes: Shapes) -> None:
        super().__init__()
        channels = shapes.teacher[path][0]
        layer = None if shapes.teacher_model is None else layer_of(shapes.teacher_model, path)
        self.learnt = isinstance(layer, nn.BatchNorm2d) and layer.affine
        if self.learnt:
            self.register_buffer("known", margin_of_norm(layer))  # pyright: ignore[reportArgumentType]
        else:
            self.register_buffer("total", torch.zeros(channels, dtype=torch.float64))
            self.register_buffer("count", torch.zeros(channels, dtype=torch.float64))

    def forward(self, teacher: Tensor) -> Tensor:
        """From the teacher's features [B, C, H, W], which count as seen while training."""
        if self.learnt:
            return self.known[:, None, None]
        if self.training:
            negative = wide(teacher).detach().clamp_max(0)
            self.total += negative.sum((0, 2, 3)).to(self.total.dtype)
            self.count += (negative < 0).sum((0, 2, 3))
        return (self.total / self.count.clamp_min(1)).to(wide(teacher).dtype)[:, None, None]
