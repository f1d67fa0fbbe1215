"""Kullback-Leibler divergence, both ways round."""

from torch import Tensor


def kl(log_t: Tensor, log_p: Tensor, singles: int) -> tuple[Tensor, Tensor]:
    """Forward: sum t (ln t - ln p), the only form here that is linear in the teacher but for a constant.

    So weights that are the teacher's in the mean have the teacher's gradient in the mean; they need not sum to one.
    """
    t = log_t.exp()
    return (t * (log_t - log_p)).sum(-1), -t


def reverse_kl(log_t: Tensor, log_p: Tensor, singles: int) -> tuple[Tensor, Tensor]:
    """sum p (ln p - ln t): the student is to have no mass where the teacher has little."""
    terms = log_p.exp() * (log_p - log_t)
    return terms.sum(-1), terms
