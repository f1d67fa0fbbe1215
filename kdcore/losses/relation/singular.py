"""Leading right singular vectors of feature maps, with slopes that stay finite."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.losses.numerics import unit, wide

__all__ = ["aligned", "leading"]

# In units of the largest eigenvalue: two that are closer are told apart no more sharply.
_BLUR = 1e-4


def leading(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """V [B, C, k] and singular values [B, k], largest first, of maps [B, C, H, W] as matrices of H W rows, C columns.

    k is `count`, or less where C or H W is. Of a vector and its negative the one whose largest entry is positive.
    The values have no gradient. That of the vectors is exact but for eigenvalues l of the Gram matrix that lie close:
    1 / (l_i - l_j) is taken as d / (d^2 + e^2), d their difference and e a ten thousandth of the largest. So it is
    finite where they are equal (constant or zero maps), and then zero between them.
    """
    maps = wide(features).flatten(2)
    narrow = maps.shape[1] <= maps.shape[2]
    gram = maps @ maps.mT if narrow else maps.mT @ maps
    values, vectors = _Eigenvectors.apply(gram)  # pyright: ignore[reportGeneralTypeIssues]
    k = min(count, gram.shape[1])
    values, vectors = values.flip(-1)[..., :k], vectors.flip(-1)[..., :k]
    vectors = vectors if narrow else unit(maps @ vectors, dim=1)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).detach()
    return vectors * torch.where(largest < 0, -1.0, 1.0), values.clamp(min=0).sqrt()


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """For each of the teacher's vectors [B, C, k] the nearest of the student's [B, C, m], turned its way; [B, C, k]."""
    cosines = student.mT @ teacher
    nearest = cosines.detach().abs().argmax(1, keepdim=True)
    sign = cosines.detach().gather(1, nearest).sign()
    return student.gather(2, nearest.expand(-1, student.shape[1], -1)) * sign


class _Eigenvectors(torch.autograd.Function):
    """Of symmetric matrices [B, D, D], by rising eigenvalue; see `leading` for the slope."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrices)
        ctx.save_for_backward(values, vectors)
        ctx.mark_non_differentiable(values)
        return values, vectors

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, _: Tensor, slopes: Tensor
    ) -> Tensor:
        values, vectors = ctx.saved_tensors
        gaps = values[:, None, :] - values[:, :, None]
        blur = _BLUR * values.abs().amax(1)[:, None, None]
        inverse = gaps / (gaps.square() + blur.square()).clamp(min=torch.finfo(gaps.dtype).tiny)
        within = vectors @ (inverse * (vectors.mT @ slopes)) @ vectors.mT
        return (within + within.mT) / 2
