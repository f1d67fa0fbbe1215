"""The loss of few cells a token, and its gradient, from what one pass over the logits finds.

This is all of the sparse loss but the passes over the logits themselves, which an implementation brings: the first
finds `Seen`, the second spreads `gradient` over the classes: with c(j) the cell of class j,

    d loss / d z_j = gradient_c(j) exp(z_j - lse of c(j)) + target gradient, where j is the target.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcore.losses.forms import KL
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.support import Support

__all__ = ["Group", "Seen", "compare"]


@dataclass(frozen=True)
class Group:
    """Classes that share a cell: `lse`, the logsumexp [N] of their logits, `best`, the largest, `mean`, their mean.

    The mean is over the student's own distribution of them. Without a class: -inf, -inf and 0.
    """

    lse: Tensor
    best: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Seen:
    """What a pass over logits z [N, V] finds, float32 or float64.

    `stored` [N, K]: z of the classes that a label names, -inf where its id is -1; `target` [N]: z of the target.
    `groups`: the classes below `num_classes` that are not named (the tail); then, where V is more, those from there on.
    """

    stored: Tensor
    target: Tensor
    groups: tuple[Group, ...]


def compare(
    seen: Seen, support: Support, objective: Objective, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums [1 + len(METRICS)] of loss and by-products; gradients [N, K + groups] of cells, and [N] of the target.

    `weights` [N] are those of tokens (None: ones). A support without a class (K = 0) is no label: hard loss alone.
    """
    stored, soft = seen.stored, seen.stored.shape[1] > 0
    hard = objective.hard_weight if soft else 1.0
    cells = torch.cat([stored, *(group.lse[:, None] for group in seen.groups)], 1)
    lse = cells.logsumexp(1)
    log_p = cells - lse[:, None]
    p = log_p.exp()
    cross_entropy = lse - seen.target
    nothing = torch.zeros_like(lse)
    loss, gradient, kl, agreement = hard * cross_entropy, hard * p, nothing, nothing
    if soft:
        divergence, slope, kl = _divergence(log_p, support, objective)
        loss = loss + (1 - hard) * divergence
        gradient = gradient + (1 - hard) * slope
        best = torch.cat([stored, *(group.best[:, None] for group in seen.groups)], 1).amax(1, keepdim=True)
        agreement = (support.best & (stored >= best)).any(1).to(lse.dtype)
    named = p[:, : stored.shape[1]]
    means = [group.mean * p[:, stored.shape[1] + place] for place, group in enumerate(seen.groups)]
    entropy = lse - (named * stored.masked_fill(support.ids < 0, 0.0)).sum(1) - sum(means)
    rows = torch.stack([loss, kl, cross_entropy, agreement, entropy, named.sum(1), torch.ones_like(lse)])
    weights = torch.ones_like(lse) if weights is None else weights
    return rows @ weights, gradient * weights[:, None], -hard * weights


def _divergence(log_p: Tensor, support: Support, objective: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """T^2 form [N], its gradient [N, K + groups] as of `compare`, and T^2 KL [N]."""
    count, temperature = support.ids.shape[1], objective.temperature
    log_t = support.log_t.to(log_p.dtype)
    if objective.tail == "drop":
        # A label that names no class says nothing without its tail: both sides are made alike.
        silent = (log_t == float("-inf")).all(1, keepdim=True)
        own_t, own_p = (
            torch.log_softmax((log[:, :count] / temperature).masked_fill(silent, 0.0), 1) for log in (log_t, log_p)
        )
    else:
        rest = log_p.new_full((len(log_p), log_p.shape[1] - count), float("-inf"))
        rest[:, 0] = support.tail_log_t
        own_t, own_p = torch.cat([log_t, rest], 1), log_p
    value, slopes = objective.form(own_t, own_p, count)
    kl = value if objective.form.name == "kl" else KL(own_t, own_p, count)[0]
    gradient = slopes - own_p.exp() * slopes.sum(1, keepdim=True)
    square = temperature**2
    gradient = torch.nn.functional.pad(gradient * (square / temperature), (0, log_p.shape[1] - gradient.shape[1]))
    return square * value, gradient, square * kl
