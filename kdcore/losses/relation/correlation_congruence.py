"""CCKD: the correlations between the samples of a batch.

Peng et al., "Correlation Congruence for Knowledge Distillation" (arXiv 1904.01802); and the short form
that the authors gave to RepDistiller, whose tables show it.
"""

from math import exp, factorial

import torch
from torch import Tensor

from kdcore.config.losses.relation import CorrelationCongruenceTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.relation.embeddings import Embeddings
from kdcore.losses.relation.geometry import cosines, rows

__all__ = ["CorrelationCongruence", "congruence", "neighbouring_differences", "taylor_gaussian"]


def taylor_gaussian(vectors: Tensor, gamma: float, order: int) -> Tensor:
    """exp(-gamma ||x_i - x_j||^2) of the directions of [B, D], as sum_p exp(-2 gamma) (2 gamma x_i x_j)^p / p!.

    The sum ends with p = `order`. [B, B].
    """
    alike = 2 * gamma * cosines(vectors)
    terms = [alike**power / factorial(power) for power in range(1, order + 1)]
    return exp(-2 * gamma) * torch.stack([torch.ones_like(alike), *terms]).sum(0)


def congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    """(1 / B^2) ||C_s - C_t||_F^2 of features [B, ...], C the kernel above; widths may differ."""
    ours, theirs = (taylor_gaussian(rows(one), gamma, order) for one in (student, teacher))
    return (ours - theirs).square().mean()


def neighbouring_differences(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_i sum_d D_i D_{i+1} with D = |f_s - f_t|, of [B, D] both; 0 for a single sample."""
    apart = (wide(student) - wide(teacher)).abs()
    return (apart[:-1] * apart[1:]).sum() / max(1, len(apart) - 1)


class CorrelationCongruence(FeatureMethod[CorrelationCongruenceTerm]):
    """Sum over the pairs of layers; the short form compares learnt embeddings of both networks."""

    def __init__(self, term: CorrelationCongruenceTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        if term.form == "short":
            self.embeddings = Embeddings(term, shapes, term.dimension)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        if self.term.form == "kernel":
            return congruence(student, teacher, self.term.gamma, self.term.order)
        return neighbouring_differences(*self.embeddings(number, student, teacher))
