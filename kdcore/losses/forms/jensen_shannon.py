"""Generalised Jensen-Shannon divergence (GKD, Agarwal et al. 2024, arXiv 2306.13649, eq. 1)."""

import math

import torch
from torch import Tensor

from kdcore.losses.forms.kl import kl, reverse_kl


def jsd(log_t: Tensor, log_p: Tensor, singles: int, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    """beta KL(t || m) + (1 - beta) KL(p || m), m = beta t + (1 - beta) p; 0 is forward KL, 1 is reverse KL.

    That the ends are the two KLs, and not the limit 0, is the convention of the paper and of trl.
    """
    if beta == 0:
        return kl(log_t, log_p, singles)
    if beta == 1:
        return reverse_kl(log_t, log_p, singles)
    log_m = torch.logaddexp(log_t + math.log(beta), log_p + math.log1p(-beta))
    of_student = (1 - beta) * log_p.exp() * (log_p - log_m)
    of_teacher = beta * log_t.exp() * (log_t - log_m)
    # The derivatives of both terms through m add up to (1 - beta) p, which is left out of the slopes.
    return (of_teacher + of_student).sum(-1), of_student
