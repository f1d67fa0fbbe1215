"""Linear embeddings of both networks in one space."""

from torch import Tensor, nn

from kdcore.config.losses import FeatureTerm
from kdcore.losses.method import Shapes
from kdcore.losses.projectors import project
from kdcore.losses.relation.geometry import rows, width

__all__ = ["Embeddings"]


class Embeddings(nn.Module):
    """For each pair of layers two learnt maps, features [B, ...] to [B, `dimension`]."""

    def __init__(self, term: FeatureTerm, shapes: Shapes, dimension: int) -> None:
        super().__init__()
        self.student = nn.ModuleList(nn.Linear(*width(shapes.student[path]), dimension) for path in term.at)
        self.teacher = nn.ModuleList(nn.Linear(*width(shapes.teacher[path]), dimension) for path in term.teacher_paths)

    def forward(self, number: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Of the pair of this number, in float32."""
        return project(self.student[number], rows(student)), project(self.teacher[number], rows(teacher))
