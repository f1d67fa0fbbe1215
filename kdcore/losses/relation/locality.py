"""LP: samples that the teacher has near each other stay near.

Chen et al., "Learning Student Networks via Feature Embedding" (arXiv 1812.06597). Unverified: only the abstract was at
hand; the formula is that of descriptions of it.
"""

import torch
from torch import Tensor

from kdcore.config.losses.relation import LocalityTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.relation.geometry import distances, rows

__all__ = ["Locality", "locality_loss", "locality_weights"]


def locality_weights(teacher: Tensor, neighbours: int, width: float) -> Tensor:
    """a [B, B] = exp(-||t_i - t_j||^2 / width) for the nearest j of each i, over their sum; 0 for others and for i."""
    squares = distances(rows(teacher)).square()
    itself = torch.eye(len(squares), dtype=torch.bool, device=squares.device)
    squares = squares.masked_fill(itself, torch.inf)
    near = squares.argsort(dim=1, stable=True)[:, : min(neighbours, len(squares) - 1)]
    weights = (-squares.gather(1, near) / width).softmax(1)
    return torch.zeros_like(squares).scatter(1, near, weights)


def locality_loss(student: Tensor, teacher: Tensor, neighbours: int = 5, width: float = 1.0) -> Tensor:
    """Sum over neighbours of a_ij ||s_i - s_j||^2, the mean over samples, of features [B, ...]; widths may differ.

    Alone it is least where all samples are one: it needs a loss of labels beside it.
    """
    squares = distances(rows(student)).square()
    return (locality_weights(teacher, neighbours, width) * squares).sum() / len(squares)


class Locality(FeatureMethod[LocalityTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return locality_loss(student, teacher, self.term.neighbours, self.term.width)
