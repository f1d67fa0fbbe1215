"""The definitions of the losses, written out densely and without regard to numerics: what the code must equal."""

import math

import torch
from torch import Tensor


def kl(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a > 0, a * (a.log() - b.log()), torch.zeros_like(a)).nan_to_num(0.0, math.inf).sum(-1)


def jsd(t: Tensor, p: Tensor, singles: int, beta: float) -> Tensor:
    if beta in (0, 1):
        return kl(p, t) if beta else kl(t, p)
    m = beta * t + (1 - beta) * p
    return beta * kl(t, m) + (1 - beta) * kl(p, m)


def adaptive(t: Tensor, p: Tensor, singles: int, head_mass: float) -> Tensor:
    shares = []
    for one, other in zip(t.tolist(), p.tolist(), strict=True):
        ordered = sorted(range(singles), key=lambda cell: -one[cell])
        head, mass = ordered[:1], one[ordered[0]]
        for cell in ordered[1:]:
            mass += one[cell]
            head += [cell] if mass <= head_mass else []
        gaps = [abs(a - b) for a, b in zip(one, other, strict=True)]
        shares.append(sum(gaps[cell] for cell in head) / max(sum(gaps), 1e-300))
    share = t.new_tensor(shares)
    return share * kl(t, p) + (1 - share) * kl(p, t)


DEFINITIONS = {
    "kl": lambda t, p, singles: kl(t, p),
    "reverse_kl": lambda t, p, singles: kl(p, t),
    "jsd": jsd,
    "skew_kl": lambda t, p, singles, alpha: kl(t, alpha * t + (1 - alpha) * p),
    "skew_reverse_kl": lambda t, p, singles, alpha: kl(p, (1 - alpha) * t + alpha * p),
    "total_variation": lambda t, p, singles: (t - p).abs().sum(-1) / 2,
    "adaptive_kl": adaptive,
}
"""Divergence [N] of distributions t and p [N, cells], the first `singles` of which are single classes."""

PARAMETERS: dict[str, list[dict[str, float]]] = {
    "kl": [{}],
    "reverse_kl": [{}],
    "jsd": [{"beta": 0.5}, {"beta": 0.1}, {"beta": 0.0}, {"beta": 1.0}],
    "skew_kl": [{"alpha": 0.1}, {"alpha": 0.7}],
    "skew_reverse_kl": [{"alpha": 0.1}, {"alpha": 0.7}],
    "total_variation": [{}],
    "adaptive_kl": [{"head_mass": 0.5}, {"head_mass": 0.9}],
}
