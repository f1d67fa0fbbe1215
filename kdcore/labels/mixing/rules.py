"""Rules by name, of the labels of several teachers for the same positions."""

from collections.abc import Callable, Sequence

from torch import Tensor

from kdcore.config.mix import Rule
from kdcore.labels.mixing.arithmetic import arithmetic
from kdcore.labels.mixing.forms import choose
from kdcore.labels.mixing.geometric import geometric
from kdcore.labels.mixing.selecting import max_confidence, min_ce
from kdcore.labels.mixing.weighing import agreement_shares, entropy_shares
from kdcore.labels.soft_labels import SoftLabels

__all__ = ["mixed"]


def mixed(
    rule: Rule, labels: Sequence[SoftLabels], shares: Tensor, target_log_probs: Callable[[], Tensor]
) -> SoftLabels:
    """Labels of M teachers by a rule that looks at them; `shares` float64 [M] sum to one.

    `target_log_probs` gives ln p_m(target) [M, N], and is asked by min_ce alone. Raises what the rule does.
    """
    if rule == "geometric":
        return geometric(labels, shares)
    if rule == "max_confidence":
        return choose(labels, max_confidence(labels))
    if rule == "min_ce":
        return choose(labels, min_ce(target_log_probs()))
    if rule == "entropy":
        shares = entropy_shares(labels, shares)
    elif rule == "agreement":
        shares = agreement_shares(labels, shares)
    return arithmetic(labels, shares)
