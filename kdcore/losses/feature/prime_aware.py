"""Prime-aware adaptive distillation: samples that the student cannot follow count less, by a learnt variance.

Zhang et al., "Prime-Aware Adaptive Distillation" (arXiv 2008.01458), in torchdistill's form, which has the authors'
mean over dimensions. They train without variances first: another term with `until`, and `warmup` of this one.
"""

from torch import Tensor, nn

from kdcore.config.losses.feature import PrimeAwareTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import VectorNorm, pooled, pooled_width, project

__all__ = ["PrimeAware", "adaptive_distance"]


def adaptive_distance(student: Tensor, teacher: Tensor, log_variance: Tensor, eps: float = 1e-6) -> Tensor:
    """mean ((t - s)^2 / (eps + exp v) + v) of embeddings [B, D] and log variances v [B, D]."""
    log_variance = wide(log_variance)
    squares = (wide(teacher) - wide(student)).square()
    return (squares / (eps + log_variance.exp()) + log_variance).mean()


class PrimeAware(FeatureMethod[PrimeAwareTerm]):
    """For each pair of layers a projector and an estimator of variances; maps are averaged over places."""

    def __init__(self, term: PrimeAwareTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.projectors = self.for_pairs(shapes, self._projector)
        self.estimators = self.for_pairs(shapes, self._estimator)

    @staticmethod
    def _projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        width, other = pooled_width(ours), pooled_width(theirs)
        return nn.Identity() if width == other else nn.Linear(width, other)

    @staticmethod
    def _estimator(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Linear(pooled_width(ours), pooled_width(theirs)), VectorNorm(pooled_width(theirs)))

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        student = pooled(student)
        mean, spread = project(self.projectors[number], student), project(self.estimators[number], student)
        return adaptive_distance(mean, pooled(teacher), spread)
