"""MobileBERT's feature map transfer: normalised hidden states, their means and their variances.

Sun et al., "MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices" (arXiv 2004.02984), feature map
transfer, taken apart as in the authors' code. Its attention transfer is `attention_maps`.
"""

from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.transformer import FeatureMapsTerm
from kdcore.losses.transformer.hidden import TokenMethod, mean_square

__all__ = ["FeatureMaps", "mean_distance", "normalised_distance", "variance_distance"]


def normalised_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_d (LN(h_s) - LN(h_t))^2 of each token [B, L] of states [B, L, D]; LN without parameters."""
    return mean_square(*(functional.layer_norm(states, states.shape[-1:]) for states in (student, teacher)))


def mean_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """(mean h_s - mean h_t)^2 of each token [B, L] of states [B, L, D]."""
    return (student.mean(-1) - teacher.mean(-1)).square()


def variance_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """|var h_s - var h_t| of each token [B, L] of states [B, L, D]; variances over D, not D - 1."""
    return (student.var(-1, correction=0) - teacher.var(-1, correction=0)).abs()


class FeatureMaps(TokenMethod[FeatureMapsTerm]):
    """All three, by their weights; the paper has no linear map, as its teacher is made to fit."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See TokenMethod."""
        return (
            self.term.normalised * normalised_distance(student, teacher)
            + self.term.mean * mean_distance(student, teacher)
            + self.term.variance * variance_distance(student, teacher)
        )
