"""Skewed KL, both ways round (DistiLLM, Ko et al. 2024, arXiv 2402.03898)."""

import math

import torch
from torch import Tensor


def skew_kl(log_t: Tensor, log_p: Tensor, singles: int, alpha: float = 0.1) -> tuple[Tensor, Tensor]:
    """KL(t || m), m = alpha t + (1 - alpha) p, 0 < alpha < 1: bounded by -ln alpha."""
    log_m = torch.logaddexp(log_t + math.log(alpha), log_p + math.log1p(-alpha))
    t = log_t.exp()
    return (t * (log_t - log_m)).sum(-1), -t * (log_p + math.log1p(-alpha) - log_m).exp()


def skew_reverse_kl(log_t: Tensor, log_p: Tensor, singles: int, alpha: float = 0.1) -> tuple[Tensor, Tensor]:
    """KL(p || m), m = (1 - alpha) t + alpha p, 0 < alpha < 1: bounded by -ln alpha."""
    log_m = torch.logaddexp(log_t + math.log1p(-alpha), log_p + math.log(alpha))
    p, above = log_p.exp(), log_p - log_m
    return (p * above).sum(-1), p * (above - (above + math.log(alpha)).exp())
