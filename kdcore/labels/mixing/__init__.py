"""Labels of several teachers for the same positions into one: pure functions, a file for each kind of rule."""

from kdcore.labels.mixing.arithmetic import arithmetic
from kdcore.labels.mixing.forms import (
    Form,
    choose,
    common_form,
    cut_classes,
    form_of,
    hard_labels,
    in_form,
    side_by_side,
)
from kdcore.labels.mixing.geometric import geometric
from kdcore.labels.mixing.rules import decide, mixed, mixed_log_probs
from kdcore.labels.mixing.selecting import max_confidence, min_ce, random_teacher, target_log_probs
from kdcore.labels.mixing.votes import epsilon, votes
from kdcore.labels.mixing.weighing import agreement_shares, entropy_shares

__all__ = [
    "Form",
    "agreement_shares",
    "arithmetic",
    "choose",
    "common_form",
    "cut_classes",
    "decide",
    "entropy_shares",
    "epsilon",
    "form_of",
    "geometric",
    "hard_labels",
    "in_form",
    "max_confidence",
    "min_ce",
    "mixed",
    "mixed_log_probs",
    "random_teacher",
    "side_by_side",
    "target_log_probs",
    "votes",
]
