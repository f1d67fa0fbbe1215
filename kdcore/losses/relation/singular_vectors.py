"""SVD: how the leading directions of one layer lie to those of the next.

Lee, Kim and Song, "Self-supervised Knowledge Distillation Using Singular Value Decomposition" (arXiv 1807.06819), as in
RepDistiller: squares are added up, the mean is over samples. What is not finite is not dropped, as there: slopes are
bounded.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from kdcore.config.losses.relation import SingularVectorsTerm
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.relation.layers import in_order, require_equal_channels
from kdcore.losses.relation.singular import aligned, leading

__all__ = ["SingularVectors", "singular_vector_loss"]

# More of the student's vectors than of the teacher's, among which the nearest are chosen.
_SPARE = 3


def singular_vector_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], count: int = 1) -> Tensor:
    """Sum over consecutive layers of ||K_s - K_t||^2, the mean over samples, of maps [B, C, H, W] a layer.

    K [B, C, C', k] = exp(-(v_c - v'_c')^2 / 8) of the k leading right singular vectors of both layers, the student's
    aligned with the teacher's, all weighed by the teacher's singular values (of length one together).
    """
    ours, theirs = zip(*_directions(student, teacher, count), strict=True)
    apart = [_kernel(*mine) - _kernel(*other) for mine, other in zip(pairwise(ours), pairwise(theirs), strict=True)]
    losses = [one.square().sum((1, 2, 3)).mean() for one in apart]
    return sum(losses[1:], losses[0])


def _directions(student: Sequence[Tensor], teacher: Sequence[Tensor], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for ours, theirs in zip(student, teacher, strict=True):
        vectors, values = leading(theirs, count)
        weights = torch.nn.functional.normalize(values, dim=1)[:, None]
        yield aligned(leading(ours, vectors.shape[2] + _SPARE)[0], vectors) * weights, vectors * weights


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    k = min(first.shape[2], second.shape[2])
    return (-(first[:, :, None, :k] - second[:, None, :, :k]).square() / 8).exp()


class SingularVectors(Method[SingularVectorsTerm]):
    """The layers of the settings, in their order."""

    def __init__(self, term: SingularVectorsTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        require_equal_channels(term, shapes)

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        return singular_vector_loss(*in_order(self.term, inputs), self.term.vectors)
