"""RKD: the distances between samples, and the angles that three of them make.

Park, Kim, Lu and Cho, "Relational Knowledge Distillation" (arXiv 1904.05068), section 3.2, as the authors' code reduces
it: means over all pairs and all triplets of the batch, those of a sample with itself among them.
"""

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from kdcore.config.losses.relation import RelationalTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.relation.geometry import angles, distances, relative, rows

__all__ = ["Relational", "angle_loss", "distance_loss"]


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean of Huber(d_s / mean d_s, d_t / mean d_t) over pairs, of features [B, ...]; widths may differ."""
    return smooth_l1_loss(relative(distances(rows(student))), relative(distances(rows(teacher))))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """mean of Huber(cos of the student's angle, of the teacher's) over triplets, of features [B, ...].

    Takes memory of B^2 (B + D) numbers.
    """
    return smooth_l1_loss(angles(rows(student)), angles(rows(teacher)))


class Relational(FeatureMethod[RelationalTerm]):
    """Both, weighted; summed over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        term = self.term
        loss = term.distance_weight * distance_loss(student, teacher)
        return loss if term.angle_weight == 0 else loss + term.angle_weight * angle_loss(student, teacher)
