"""Semantic calibration: every layer of the student learns from every layer of the teacher, by learnt attention.

Chen et al., "Cross-Layer Distillation with Semantic Calibration" (arXiv 2012.03236), as in the authors' code: the
attention of a sample compares its rows of both layers' similarity matrices of the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.feature import SemCKDTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import ChannelNorm, project, require_maps, same_size

__all__ = ["SemCKD", "calibrated"]


def calibrated(distances: Tensor, attention: Tensor) -> Tensor:
    """mean over samples and layers of the student of sum_t attention[b, s, t] distances[b, s, t], both [B, S, T]."""
    return (distances * attention).sum(2).mean()


def _embedding(width: int, factor: int) -> nn.Module:
    """Rows of a similarity matrix [B, width] to queries or keys [B, width / factor]."""
    inner = max(width // factor, 1)
    return nn.Sequential(nn.Linear(width, 2 * inner), nn.ReLU(), nn.Linear(2 * inner, inner))


def _regressor(ours: int, theirs: int) -> nn.Module:
    """1 x 1, 3 x 3 and 1 x 1 convolutions, twice the teacher's channels wide."""
    width = 2 * theirs
    return nn.Sequential(
        nn.Conv2d(ours, width, 1, bias=False),
        ChannelNorm(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        ChannelNorm(width),
        nn.ReLU(),
        nn.Conv2d(width, theirs, 1, bias=False),
    )


class SemCKD(Method[SemCKDTerm]):
    """Queries of the student's layers, keys of the teacher's, and a regressor for each of the S x T pairs."""

    def __init__(self, term: SemCKDTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        ours, theirs = [shapes.student[path] for path in term.at], [shapes.teacher[path] for path in term.teacher_paths]
        require_maps(*ours, *theirs)
        self.queries = nn.ModuleList(_embedding(term.batch, term.factor) for _ in ours)
        self.keys = nn.ModuleList(_embedding(term.batch, term.factor) for _ in theirs)
        self.regressors = nn.ModuleList(nn.ModuleList(_regressor(one[0], other[0]) for other in theirs) for one in ours)

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method; ConfigError for a micro-batch that is larger than the setting."""
        students = [wide(inputs.student[path]) for path in self.term.at]
        teachers = [wide(inputs.teacher[path]) for path in self.term.teacher_paths]
        distances = [
            self._distance(regressor, student, teacher)
            for row, student in zip(self.regressors, students, strict=True)
            for regressor, teacher in zip(row, teachers, strict=True)  # pyright: ignore[reportArgumentType]
        ]
        rows = torch.stack(distances, 1).unflatten(1, (len(students), len(teachers)))
        return calibrated(rows, self.attention(students, teachers))

    def attention(self, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Shares [B, S, T] of the teacher's layers, which sum to one for each sample and layer of the student."""
        queries = [unit(project(one, self._similar(maps))) for one, maps in zip(self.queries, students, strict=True)]
        keys = [unit(project(one, self._similar(maps))) for one, maps in zip(self.keys, teachers, strict=True)]
        return (torch.stack(queries, 1) @ torch.stack(keys, 2)).softmax(2)

    def _similar(self, maps: Tensor) -> Tensor:
        """Inner products of the samples, [B, batch]; columns of samples that a smaller batch lacks are zero."""
        batch = len(maps)
        if batch > self.term.batch:
            raise ConfigError(
                f"sem_ckd was built for at most {self.term.batch} samples a micro-batch, got {batch}: its queries are "
                "rows of similarities to these. Set `batch` of the loss to the size of a micro-batch"
            )
        flat = maps.flatten(1)
        return functional.pad(flat @ flat.T, (0, self.term.batch - batch))

    @staticmethod
    def _distance(regressor: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean squared difference of each sample, [B]; maps are averaged down to the smaller ones' size."""
        ours, theirs = same_size(student, teacher)
        return (project(regressor, ours) - theirs).square().flatten(1).mean(1)
