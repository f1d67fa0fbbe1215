"""FSP: how features flow from one layer to the next.

Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation" (CVPR 2017): the larger of two maps is max-pooled to the
size of the other, and squares of differences are added up. RepDistiller averages maps and takes the mean of the
squares, torchdistill 1.1 adds up lengths of columns.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from kdcore.config.losses.relation import FlowTerm
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.relation.layers import in_order, require_equal_channels, same_grid

__all__ = ["Flow", "flow_loss", "flow_matrix"]


def flow_matrix(first: Tensor, second: Tensor) -> Tensor:
    """G [B, C, C'], the mean over places of F_first F_second^T, of maps [B, C, H, W] and [B, C', H', W']."""
    ours, theirs = same_grid(first, second, nn.AdaptiveMaxPool2d)
    return ours @ theirs.mT / ours.shape[2]


def flow_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over consecutive layers of ||G_s - G_t||_F^2, the mean over samples; layers in the order of the networks."""
    apart = [
        flow_matrix(*ours) - flow_matrix(*theirs)
        for ours, theirs in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    losses = [one.square().sum((1, 2)).mean() for one in apart]
    return sum(losses[1:], losses[0])


class Flow(Method[FlowTerm]):
    """The layers of the settings, in their order."""

    def __init__(self, term: FlowTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        require_equal_channels(term, shapes)

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        return flow_loss(*in_order(self.term, inputs))
