"""Adaptive mix of forward and reverse KL (AKL, Wu et al. 2024, arXiv 2404.02657)."""

import torch
from torch import Tensor

from kdcore.losses.forms.kl import kl, reverse_kl


def adaptive_kl(log_t: Tensor, log_p: Tensor, singles: int, head_mass: float = 0.5) -> tuple[Tensor, Tensor]:
    """g KL(t || p) + (1 - g) KL(p || t), with g the share of the head in sum |t - p|, taken as a constant.

    The head are the teacher's best class and those after it while their summed mass is at most `head_mass`, as in the
    authors' code. A group of cells such as the tail is never of the head.
    """
    gaps = (log_t.exp() - log_p.exp()).abs()
    t, order = log_t[:, :singles].exp().sort(dim=-1, descending=True, stable=True)
    in_head = t.cumsum(-1) <= head_mass
    in_head[:, :1] = True
    of_head = (gaps[:, :singles].gather(-1, order) * in_head).sum(-1)
    share = of_head / gaps.sum(-1).clamp(min=torch.finfo(gaps.dtype).tiny)
    forward, forward_slopes = kl(log_t, log_p, singles)
    reverse, reverse_slopes = reverse_kl(log_t, log_p, singles)
    return (
        share * forward + (1 - share) * reverse,
        share[:, None] * forward_slopes + (1 - share)[:, None] * reverse_slopes,
    )
