"""IRG: samples as the vertices of a graph, their distances as its edges, and how vertices move between layers.

Liu et al., "Knowledge Distillation via Instance Relationship Graph" (CVPR 2019). Edges and movements are divided by the
largest of the batch, as in the authors' layers for Caffe, where it counts as a constant in the backward pass. Weights
and means are those of the port in AberHu/Knowledge-Distillation-Zoo.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d, mse_loss

from kdcore.config.losses.relation import InstanceGraphTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide
from kdcore.losses.relation.geometry import distances, rows
from kdcore.losses.relation.layers import in_order

__all__ = ["InstanceGraph", "edge_loss", "movement_loss", "vertex_loss"]


def vertex_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean of (z_s - z_t)^2 of logits [B, C] without their means over classes, which log-probabilities have not."""
    ours, theirs = wide(student), wide(teacher)
    return mse_loss(ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True))


def edge_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean over layers of mean (e_s - e_t)^2, e [B, B] squared distances over the largest; features [B, ...]."""
    losses = [mse_loss(_edges(ours), _edges(theirs)) for ours, theirs in zip(student, teacher, strict=True)]
    return sum(losses[1:], losses[0]) / len(losses)


def movement_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over consecutive layers of mean (m_s - m_t)^2, m [B] how far a sample moves, squared, over the farthest.

    The larger of two layers is averaged to the other's channels, height and width; features [B, ...].
    """
    movements = zip(pairwise(student), pairwise(teacher), strict=True)
    losses = [mse_loss(_movement(*ours), _movement(*theirs)) for ours, theirs in movements]
    return sum(losses[1:], losses[0])


def _edges(features: Tensor) -> Tensor:
    return _over_largest(distances(rows(features)).square())


def _movement(first: Tensor, second: Tensor) -> Tensor:
    ours, theirs = (_as_volume(one) for one in (first, second))
    size = tuple(min(a, b) for a, b in zip(ours.shape[2:], theirs.shape[2:], strict=True))
    ours, theirs = adaptive_avg_pool3d(ours, size), adaptive_avg_pool3d(theirs, size)  # pyright: ignore[reportArgumentType]
    return _over_largest((ours - theirs).square().flatten(1).sum(1))


def _as_volume(features: Tensor) -> Tensor:
    """[B, 1, C, H, W] of maps; [B, 1, D, 1, 1] of anything else."""
    features = wide(features)
    return features[:, None] if features.ndim == 4 else features.flatten(1)[:, None, :, None, None]


def _over_largest(squares: Tensor) -> Tensor:
    largest = squares.detach().max()
    return squares / largest.masked_fill(largest == 0, 1.0)


class InstanceGraph(Method[InstanceGraphTerm]):
    """Vertices of the logits, edges of all layers of the settings, movements between consecutive ones."""

    needs_teacher_logits: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        assert inputs.teacher_logits is not None
        layers = in_order(self.term, inputs)
        vertices = self.term.vertex_weight * vertex_loss(inputs.student_logits, inputs.teacher_logits)
        return (
            vertices + self.term.edge_weight * edge_loss(*layers) + self.term.movement_weight * movement_loss(*layers)
        )
