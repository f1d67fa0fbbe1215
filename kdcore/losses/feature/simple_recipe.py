"""A simple recipe: pooled features through a linear layer and BatchNorm, and the logarithm of a high power's sum.

Miles and Mikolajczyk, "Understanding the Role of the Projector in Knowledge Distillation" (arXiv 2303.11098), in the
form of torchdistill, which counts it twice beside KL divergence: `weight`.
"""

from torch import Tensor, nn

from kdcore.config.losses.feature_later import SimpleRecipeTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import VectorNorm, pooled, pooled_width, project

__all__ = ["SimpleRecipe", "log_sum_of_powers"]

SMALLEST_SUM = 1e-12


def log_sum_of_powers(student: Tensor, teacher: Tensor, power: float = 4.0) -> Tensor:
    """ln(sum |s - t|^power + 1e-12) over a batch of vectors [B, D]. A value of the batch as a whole."""
    return ((wide(student) - wide(teacher)).abs().pow(power).sum() + SMALLEST_SUM).log()


class SimpleRecipe(FeatureMethod[SimpleRecipeTerm]):
    """For each pair of layers a linear layer and a BatchNorm on either side; maps are averaged over places."""

    def __init__(self, term: SimpleRecipeTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.projectors = self.for_pairs(shapes, self._projector)
        self.norms = self.for_pairs(shapes, lambda ours, theirs: VectorNorm(pooled_width(theirs), affine=False))

    @staticmethod
    def _projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        width = pooled_width(theirs)
        return nn.Sequential(nn.Linear(pooled_width(ours), width), VectorNorm(width, affine=False))

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        ours = project(self.projectors[number], pooled(student))
        return log_sum_of_powers(ours, project(self.norms[number], pooled(teacher)), self.term.power)
