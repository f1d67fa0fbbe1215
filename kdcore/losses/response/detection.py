"""Responses of a detector, for losses of one's own (`type: import`): recipes have no boxes.

Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation" (NIPS 2017). Not compared
with the paper's text or code: unverified.
"""

from torch import Tensor

from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import sample_cross_entropy

__all__ = ["bounded_regression", "weighted_class_response"]


def weighted_class_response(student: Tensor, teacher: Tensor, class_weights: Tensor) -> Tensor:
    """-sum_c w_c t_c ln p_c of class logits [N, C] of N regions, weights [C], the mean over regions.

    The paper weighs the background 1.5 and other classes 1.
    """
    return sample_cross_entropy(wide(student), wide(teacher).softmax(-1) * class_weights).mean()


def bounded_regression(student: Tensor, teacher: Tensor, boxes: Tensor, margin: float) -> Tensor:
    """||R_s - y||^2 of the N boxes where it plus `margin` exceeds ||R_t - y||^2, else 0; the mean over boxes.

    All [N, 4]; the teacher is no target but a bound, beyond which the student is not driven.
    """
    ours, theirs = ((wide(given) - wide(boxes)).square().sum(-1) for given in (student, teacher))
    return (ours * (ours + margin > theirs)).mean()
