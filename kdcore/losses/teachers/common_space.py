"""Amalgamation: what student and teachers know is compared in a space that none of them was trained in.

Luo et al., "Knowledge Amalgamation from Heterogeneous Networks by Common Feature Learning" (arXiv 1906.10546), section
3.1, after Shen et al. 2019a: an adapter for each network, one extractor that all share, squared distances of the
student from each teacher in what it gives, and the teachers' features made again from there, so that the space does not
collapse. Theirs are discrepancies of kernels; here a sample is compared with itself, as the student sees the same ones.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from kdcore.config.losses.teachers import CommonSpaceTerm
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import ChannelNorm, project, require_maps, same_size

__all__ = ["CommonSpace"]


class CommonSpace(Method[CommonSpaceTerm]):
    """For each pair of layers: the means over teachers of both losses, summed."""

    hears_all: ClassVar[bool] = True

    def __init__(self, term: CommonSpaceTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        theirs = [one[path] for one in shapes.teachers for path in term.teacher_paths]
        require_maps(*(shapes.student[path] for path in term.at), *theirs)
        pairs = list(zip(term.at, term.teacher_paths, strict=True))
        self.ours = nn.ModuleList(_adapter(shapes.student[path][0], term.dimension) for path, _ in pairs)
        self.theirs = nn.ModuleList(
            nn.ModuleList(_adapter(one[path][0], term.dimension) for one in shapes.teachers) for _, path in pairs
        )
        self.shared = nn.ModuleList(nn.Conv2d(term.dimension, term.dimension, 1) for _ in pairs)
        self.again = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(term.dimension, one[path][0], 1) for one in shapes.teachers) for _, path in pairs
        )

    def _of_all(self, number: int, student: Tensor, inputs: LossInputs) -> Tensor:
        """The loss of one pair of layers."""
        path = self.term.teacher_paths[number]
        ours = project(self.shared[number], project(self.ours[number], student))
        losses = []
        both = zip(
            inputs.teachers, self._modules_of(self.theirs, number), self._modules_of(self.again, number), strict=True
        )
        for answer, adapter, again in both:
            features = answer.features[path]
            theirs = project(self.shared[number], project(adapter, features))
            gap = torch.sub(*same_size(ours, theirs)).square().mean()
            made = (project(again, theirs) - wide(features)).square().mean()
            losses.append(gap + self.term.reconstruction * made)
        return torch.stack(losses).mean()

    def forward(self, inputs: LossInputs) -> Tensor:
        """The sum over the pairs."""
        found = [self._of_all(number, inputs.student[path], inputs) for number, path in enumerate(self.term.at)]
        return torch.stack(found).sum()

    @staticmethod
    def _modules_of(lists: nn.ModuleList, number: int) -> nn.ModuleList:
        chosen = lists[number]
        assert isinstance(chosen, nn.ModuleList)
        return chosen


def _adapter(channels: int, dimension: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, dimension, 1), ChannelNorm(dimension), nn.ReLU())
