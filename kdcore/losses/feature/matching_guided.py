"""Matching-guided distillation: each channel of the student learns from the teacher's channels that look like it.

Yue et al., "Matching Guided Distillation" (arXiv 2008.09958), as in the authors' code: channels are assigned so that
the sum of squared distances of maps of length one is smallest, and the assignment is made anew every so often. Distance
and margins are the overhaul's. The assignment is scipy's.
"""

import torch
from torch import Tensor, nn

from kdcore.config.losses.feature import MatchingGuidedTerm
from kdcore.errors import ConfigError
from kdcore.losses.feature.margins import Margins
from kdcore.losses.feature.overhaul import partial_distance
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import Exact, unit
from kdcore.losses.projectors import ChannelNorm, project, same_size

__all__ = ["Matching", "MatchingGuided", "assign", "channel_costs", "strongest"]


def channel_costs(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over samples of 2 - 2 s^T t, [C, C'], of maps [B, C, H, W] and [B, C', H, W] of length one each."""
    ours, theirs = unit(student.flatten(2)), unit(teacher.flatten(2))
    return (2 - 2 * ours @ theirs.transpose(1, 2)).sum(0)


def assign(costs: Tensor) -> Tensor:
    """Channels of the teacher for each of the student, int64 [C, C' // C], from costs [C, C']; none is given twice."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ConfigError("matching_guided assigns channels with scipy: pip install 'kdcore[vision]'") from error
    groups = costs.shape[1] // costs.shape[0]
    # scipy raises on what is not finite, which the trainer refuses step by step.
    finite = costs.nan_to_num(2.0, 2.0, 2.0).repeat(groups, 1)
    _, columns = linear_sum_assignment(finite.cpu().numpy())
    return torch.from_numpy(columns).reshape(groups, costs.shape[0]).T.contiguous().to(costs.device)


def strongest(teacher: Tensor, channels: Tensor) -> Tensor:
    """Maps [B, C, H, W]: at each place the largest in size of the teacher's maps [B, C', H, W] in `channels` [C, G]."""
    several = teacher[:, channels.flatten()].unflatten(1, tuple(channels.shape))
    return several.gather(2, several.abs().argmax(2, keepdim=True)).squeeze(2)


class Matching(Exact):
    """The assignment of one pair of layers, int64 [C, G]: every `every` batches, by the costs since the last one."""

    costs: Tensor
    channels: Tensor
    seen: Tensor

    def __init__(self, ours: int, theirs: int, every: int) -> None:
        super().__init__()
        if theirs < ours:
            raise ConfigError(
                f"matching_guided gives each of the student's {ours} channels one or more of the teacher's {theirs}, "
                "which are too few: choose layers of which the teacher's is as wide or wider"
            )
        self.every = every
        self.register_buffer("costs", torch.zeros(ours, theirs))
        self.register_buffer("channels", torch.zeros(ours, theirs // ours, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The assignment after these maps, which count while training."""
        if self.training:
            self.costs += channel_costs(student.detach(), teacher).to(self.costs.dtype)
            if int(self.seen) % self.every == 0:
                self.channels.copy_(assign(self.costs))
                self.costs.zero_()
            self.seen += 1
        return self.channels


class MatchingGuided(MapMethod[MatchingGuidedTerm]):
    """Sum over the pairs of layers, each counting half of the next deeper one."""

    def __init__(self, term: MatchingGuidedTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.norms = self.for_pairs(shapes, lambda ours, theirs: ChannelNorm(ours[0]))
        self.matchings = self.for_pairs(shapes, lambda ours, theirs: Matching(ours[0], theirs[0], term.every))
        self.margins = nn.ModuleList(Margins(path, shapes) for path in term.teacher_paths)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        student, teacher = same_size(student, teacher)
        channels = self.matchings[number](student, teacher)
        margins = self.margins[number](teacher)[channels].mean(1)
        loss = partial_distance(project(self.norms[number], student), strongest(teacher, channels), margins)
        return loss / 2 ** (len(self.norms) - 1 - number)
