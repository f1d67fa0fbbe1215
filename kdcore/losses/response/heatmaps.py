"""Heatmaps as soft responses: poses and landmarks.

Zhang, Zhu and Ye, "Fast Human Pose Estimation" (arXiv 1811.05419), the teacher's half of its loss; the other half, to
maps of the ground truth, is the task's own. The authors' code has half the mean over pixels, not their sum, and leaves
out joints that are not visible.
"""

from torch import Tensor

from kdcore.config.losses.response import HeatmapsTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide

__all__ = ["Heatmaps", "heatmaps"]


def heatmaps(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_k ||m_k - m'_k||^2 of K maps [B, K, H, W], the sum over pixels, the mean over samples."""
    return (wide(student) - wide(teacher)).square().sum((2, 3)).mean()


class Heatmaps(FeatureMethod[HeatmapsTerm]):
    """Sum over the layers; ConfigError where maps have not the shape of the teacher's."""

    def __init__(self, term: HeatmapsTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        for ours, theirs in zip(term.at, term.teacher_paths, strict=True):
            if shapes.student[ours] != shapes.teacher[theirs] or len(shapes.student[ours]) != 3:
                raise ConfigError(
                    "heatmaps are compared one by one, [B, K, H, W] of both networks alike, but the student gives "
                    f"{shapes.student[ours]} and the teacher {shapes.teacher[theirs]}: set `at` and `teacher_at` to "
                    "the layers that give the maps"
                )

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return heatmaps(student, teacher)
