"""Shares of teachers that hang on the position: float64 [M, N], for `arithmetic`.

Both look at the labels themselves, so that drawn ones are refused: a share that hangs on a draw makes it biased. Of
top-k labels the tail counts as one class.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.mixing.cells import align, check_alike, row_parts, shares_of
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels

__all__ = ["agreement_shares", "entropy_shares"]


def entropy_shares(labels: Sequence[SoftLabels], weights: Tensor) -> Tensor:
    """w_m exp(-H_m), made to sum to one: the surer a teacher, the more it counts (after Kwon et al. 2020).

    exp(H) is the perplexity of a teacher's label: one that hesitates between two classes counts half of a sure one. The
    entropy of a top-k label is that of its cells, below the whole one by at most tail x ln(V - k).
    """
    _check(labels, "entropy")
    entropies = torch.stack([_entropy(label) for label in labels])
    return _normalised(shares_of(weights, labels[0].num_labels).log() - entropies)


def agreement_shares(labels: Sequence[SoftLabels], weights: Tensor) -> Tensor:
    """w_m a_m, made to sum to one, where a_m = 1 - TV(p_m, the mean of the others); w_m where all of these are 0.

    TV is the distance in total variation, half the sum of differences, over the cells that the labels name together.
    """
    _check(labels, "agreement")
    shares = shares_of(weights, labels[0].num_labels)
    if len(labels) == 1:
        return shares
    parts = [_agreement([label.index(rows) for label in labels], shares[:, rows]) for rows in row_parts(labels)]
    return torch.cat(parts, 1)


def _agreement(labels: Sequence[SoftLabels], shares: Tensor) -> Tensor:
    cells = align(labels)
    probs = torch.cat([cells.probs, cells.tails[:, :, None]], 2)
    weighted = shares[:, :, None] * probs
    others = (weighted.sum(0) - weighted) / (shares.sum(0) - shares)[:, :, None]
    agreed = shares * (1 - (probs - others).abs().sum(2) / 2).clamp(min=0)
    total = agreed.sum(0)
    return torch.where(total > 0, agreed / total, shares / shares.sum(0))


def _entropy(label: SoftLabels) -> Tensor:
    assert isinstance(label, DenseLabels | TopKLabels)
    parts = [torch.special.entr(label.log_probs[rows].double().exp()).sum(1) for rows in row_parts([label])]
    found = torch.cat(parts)
    return found + torch.special.entr(label.tail_log_prob.double().exp()) if isinstance(label, TopKLabels) else found


def _normalised(log_shares: Tensor) -> Tensor:
    return log_shares.softmax(0)


def _check(labels: Sequence[SoftLabels], rule: str) -> None:
    check_alike(labels, rule)
    if any(isinstance(label, SparseLabels) for label in labels):
        raise LabelError(
            f"rule '{rule}' gives shares by what the labels say, but labels of codec threshold or sampled are draws: "
            "their shares would hang on chance, and the mix would not be unbiased. Set the rule to arithmetic or "
            "min_ce, or label with labels.codec.type topk or dense"
        )
