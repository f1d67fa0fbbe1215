"""Variational information distillation: the teacher's features are to be predictable from the student's.

Ahn et al., "Variational Information Distillation for Knowledge Transfer" (arXiv 1904.05835): a Gaussian
with one learnt variance a channel. As in the authors' code, the mean over all elements.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.feature import VariationalInformationTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import pooled_width, project, require_places, same_size
from kdcore.losses.tokens import sample_mean

__all__ = ["VariationalInformation", "gaussian_surprise"]

SMALLEST_VARIANCE = 1e-5


def gaussian_surprise(mean: Tensor, variance: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """mean ((t - mean)^2 / variance + log variance) / 2 of features [B, ...]; variance broadcasts and is positive.

    Of tokens [B, L, D] those count where `mask` [B, L] is true: the mean over samples of their tokens'.
    """
    return 0.5 * sample_mean((wide(teacher) - wide(mean)).square() / variance + variance.log(), mask)


def _regressor(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    """Three linear layers on channels with ReLU between: 1 x 1 convolutions of maps."""
    require_places(ours, theirs)
    maps = len(ours) == 3

    def layer(width: int, other: int) -> nn.Module:
        return nn.Conv2d(width, other, 1, bias=False) if maps else nn.Linear(width, other, bias=False)

    width = pooled_width(theirs)
    first, *later = layer(pooled_width(ours), width), layer(width, width), layer(width, width)
    return nn.Sequential(first, *(part for one in later for part in (nn.ReLU(), one)))


class VariationalInformation(FeatureMethod[VariationalInformationTerm]):
    """A regressor and variances for each pair of layers, and the sum of their losses."""

    def __init__(self, term: VariationalInformationTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.regressors = self.for_pairs(shapes, _regressor)
        start = math.log(math.expm1(term.initial_variance - SMALLEST_VARIANCE))
        widths = [pooled_width(shapes.teacher[path]) for path in term.teacher_paths]
        self.spreads = nn.ParameterList(torch.full((width,), start) for width in widths)

    def variance(self, number: int) -> Tensor:
        """Of each channel of the teacher's n-th layer, [C]."""
        return functional.softplus(wide(self.spreads[number])) + SMALLEST_VARIANCE

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        variance = self.variance(number)
        if student.dim() == 4:
            student, teacher = same_size(student, teacher)
            variance = variance[:, None, None]
        return gaussian_surprise(project(self.regressors[number], student), variance, teacher, inputs.mask_of(teacher))
