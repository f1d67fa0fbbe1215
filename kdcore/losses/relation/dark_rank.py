"""DarkRank: the order in which the other samples of a batch are like one.

Chen, Wang and Zhang, "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer" (arXiv
1707.01220), with the likelihoods of the authors' code: ListMLE is the hard form, ListNet the soft one. Every sample is
a query here, there only those of the batch's first half.
"""

from itertools import permutations

import torch
from torch import Tensor

from kdcore.config.losses.relation import DarkRankTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.numerics import unit
from kdcore.losses.relation.geometry import distances, rows

__all__ = ["DarkRank", "hard_rank", "order_likelihood", "soft_rank"]


def order_likelihood(scores: Tensor) -> Tensor:
    """Log of the Plackett-Luce probability that items come in this order, [...] of their scores [..., n]."""
    remaining = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (scores - remaining).sum(-1)


def hard_rank(student: Tensor, teacher: Tensor, candidates: int = 4, alpha: float = 3.0, beta: float = 3.0) -> Tensor:
    """-log P(teacher's order | student), the mean over queries, of features [B, ...]; widths may differ.

    A query ranks the `candidates` samples (or all others of a smaller batch) that the teacher has nearest to it; the
    score of x_i for x_q is -alpha ||x_q - x_i||^beta, of directions.
    """
    ours, _ = _ranked(student, teacher, candidates, alpha, beta)
    return -order_likelihood(ours).sum() / len(student)


def soft_rank(student: Tensor, teacher: Tensor, candidates: int = 4, alpha: float = 3.0, beta: float = 3.0) -> Tensor:
    """KL(P(order | teacher), P(order | student)) over all orders of the candidates, else as `hard_rank`."""
    ours, theirs = _ranked(student, teacher, candidates, alpha, beta)
    orders = torch.tensor(list(permutations(range(ours.shape[1]))), device=ours.device, dtype=torch.int64)
    log_s, log_t = (order_likelihood(side[:, orders]) for side in (ours, theirs))
    return (log_t.exp() * (log_t - log_s)).sum() / len(student)


def _ranked(student: Tensor, teacher: Tensor, candidates: int, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """Scores [B, n] of both for each query's candidates, in the teacher's order."""
    ours, theirs = (-alpha * distances(unit(rows(one))) ** beta for one in (student, teacher))
    itself = torch.eye(len(theirs), dtype=torch.bool, device=theirs.device)
    count = min(candidates, len(theirs) - 1)
    order = theirs.masked_fill(itself, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]
    return ours.gather(1, order), theirs.gather(1, order)


class DarkRank(FeatureMethod[DarkRankTerm]):
    """Sum over the pairs of layers."""

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        loss = hard_rank if self.term.form == "hard" else soft_rank
        return loss(student, teacher, self.term.candidates, self.term.alpha, self.term.beta)
