"""PKT: how likely a sample is to have each other one as its neighbour.

Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer" (arXiv 1803.10837), with the
cosine kernel. As in the authors' code a sample is among its own neighbours, and the loss is the mean over all B^2
pairs: 1 / B of the mean KL divergence of a sample. RepDistiller's weight of 30000 belongs to that mean.
"""

from torch import Tensor

from kdcore.config.losses.relation import ProbabilisticTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.relation.geometry import cosines, rows

__all__ = ["Probabilistic", "neighbour_probabilities", "probabilistic_transfer"]

# As in the authors' code, and so published numbers.
_LEAST = 1e-7


def neighbour_probabilities(features: Tensor) -> Tensor:
    """P [B, B] of features [B, ...], P_ij in proportion to (cos(x_i, x_j) + 1) / 2; rows add up to one."""
    kernel = (cosines(rows(features)) + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)


def probabilistic_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / B^2) sum_ij P_t log(P_t / P_s) of features [B, ...]; widths may differ."""
    ours, theirs = neighbour_probabilities(student), neighbour_probabilities(teacher)
    return (theirs * ((theirs + _LEAST) / (ours + _LEAST)).log()).mean()


class Probabilistic(FeatureMethod[ProbabilisticTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return probabilistic_transfer(student, teacher)
