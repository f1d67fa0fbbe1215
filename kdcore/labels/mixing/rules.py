"""Rules by name, of the labels of several teachers for the same positions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kdcore.config.mix import Rule
from kdcore.errors import LabelError
from kdcore.labels.mixing.arithmetic import arithmetic
from kdcore.labels.mixing.cells import shares_of
from kdcore.labels.mixing.forms import choose
from kdcore.labels.mixing.geometric import geometric
from kdcore.labels.mixing.selecting import max_confidence, min_ce
from kdcore.labels.mixing.weighing import agreement_shares, entropy_shares
from kdcore.labels.soft_labels import DenseLabels, SoftLabels

__all__ = ["decide", "mixed", "mixed_log_probs"]


def decide(rule: Rule, labels: Sequence[SoftLabels], shares: Tensor, target_log_probs: Callable[[], Tensor]) -> Tensor:
    """What a rule makes of M teachers at N positions: shares float64 [M, N], or the one teacher int64 [N].

    `shares` float64 [M] sum to one; `target_log_probs` gives ln p_m(target) [M, N], and is asked by min_ce alone.
    """
    if rule == "max_confidence":
        return max_confidence(labels)
    if rule == "min_ce":
        return min_ce(target_log_probs())
    if rule == "entropy":
        return entropy_shares(labels, shares)
    if rule == "agreement":
        return agreement_shares(labels, shares)
    return shares_of(shares, labels[0].num_labels)


def mixed(rule: Rule, labels: Sequence[SoftLabels], decision: Tensor, k: int) -> SoftLabels:
    """The labels that follow from what `decide` says, with `k` as in `side_by_side`; raises what the rule does."""
    if not decision.is_floating_point():
        return choose(labels, decision, k)
    return (geometric if rule == "geometric" else arithmetic)(labels, decision)


def mixed_log_probs(rule: Rule, labels: SoftLabels, targets: Tensor, log_probs: Tensor, decision: Tensor) -> Tensor:
    """ln of what the mix gives to each target, float32 [N], from ln p_m(target), `log_probs` [M, N], and the rest.

    LabelError for a geometric mean of top-k labels, which do not say what they leave to the target.
    """
    if rule != "geometric":
        if not decision.is_floating_point():
            return log_probs.gather(0, decision[None])[0]
        return torch.logsumexp(log_probs.double() + decision.log(), 0).float()
    if not isinstance(labels, DenseLabels):
        raise LabelError(
            "a geometric mean of topk labels does not say what the hard label gets, which a store of texts keeps: read "
            "this mix instead of writing it, or set the rule to arithmetic"
        )
    return labels.log_probs.gather(1, targets[:, None]).squeeze(1)
