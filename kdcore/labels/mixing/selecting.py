"""Which one teacher a label is taken from: int64 [N] numbers, for `choose`.

The chosen label is kept as it is. `min_ce` looks at probabilities that were measured apart from the draws, and `random`
at nothing of the labels, so that drawn labels that they choose stay unbiased.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.identity import mix_next
from kdcore.labels.mixing.cells import check_alike
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, TopKLabels

__all__ = ["max_confidence", "min_ce", "random_teacher", "target_log_probs"]


def target_log_probs(labels: Sequence[SoftLabels], targets: Tensor) -> Tensor:
    """ln p_m(target) of dense labels, float32 [M, N]; LabelError for labels that do not know it."""
    check_alike(labels, "min_ce")
    dense = [label for label in labels if isinstance(label, DenseLabels)]
    if len(dense) < len(labels):
        raise LabelError(
            "rule 'min_ce' needs what each teacher gives to the hard label, which stores of text keep beside their "
            "labels, and others only with labels.codec.type dense: set another rule, or label anew"
        )
    return torch.stack([label.log_probs.gather(1, targets[:, None]).squeeze(1) for label in dense])


def min_ce(log_probs: Tensor) -> Tensor:
    """The teacher that is least surprised by the target, the first of equals; `log_probs` [M, N] are ln p_m(target)."""
    return _first_largest(log_probs)


def max_confidence(labels: Sequence[SoftLabels]) -> Tensor:
    """The teacher with the largest probability of a class, the first of equals.

    LabelError for drawn labels: their largest weight is that of the draw, so that the choice would hang on chance.
    """
    check_alike(labels, "max_confidence")
    tops = []
    for label in labels:
        if not isinstance(label, DenseLabels | TopKLabels):
            raise LabelError(
                "rule 'max_confidence' needs each teacher's largest probability, but labels of codec threshold or "
                "sampled are draws, of which the largest weight is chance: set the rule to min_ce or arithmetic, or "
                "label with labels.codec.type topk or dense"
            )
        tops.append(label.log_probs.amax(1))
    return _first_largest(torch.stack(tops))


def random_teacher(keys: np.ndarray, weights: Sequence[float], seed: int, epoch: np.ndarray) -> np.ndarray:
    """A teacher for each sample and epoch, int64 [n], by chance in proportion to `weights` (Fukuda et al. 2017).

    `keys` uint64 [n, 2] are the samples', `epoch` int64 [n]; a pure function of these and `seed`.
    """
    state = mix_next(np.array([seed], np.uint64)) ^ keys[:, 0]
    state = mix_next(mix_next(state ^ epoch.astype(np.uint64)) ^ keys[:, 1])
    ends = np.cumsum(np.asarray(weights, np.float64))
    points = (state >> np.uint64(11)) * 2.0**-53 * ends[-1]
    return np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1).astype(np.int64)


def _first_largest(values: Tensor) -> Tensor:
    # argmax does not say which of equals it finds.
    return (values == values.amax(0)).to(torch.int8).argmax(0)
