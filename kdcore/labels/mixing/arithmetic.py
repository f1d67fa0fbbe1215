"""The weighted mean of several teachers: sum of w_m p_m (Hinton et al. 2015).

What comes out, whatever the codecs:

- dense labels alone: dense, exact;
- drawn labels (`threshold`, `sampled`), maybe with dense ones: weights, each teacher's entries times its share. Exact
  and, since the mean is linear, unbiased: the expected weight of a class is the mixture's probability;
- with top-k labels: the classes that any of them (or a drawn label) names, and one cell for the rest. What a dense
  teacher gives to either is exact. A top-k teacher m does not say how its tail t_m is divided, so that its mass of a
  class that only others name stays in the tail. That is too little for the class and too much for the tail by at most
  w_m min(t_m, n_m q_m), where n_m counts such classes and q_m is the least probability that m names: the sum over
  teachers bounds the distance in total variation to the mixture over the same cells.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcore.labels.mixing.cells import align, check_alike, shares_of
from kdcore.labels.mixing.forms import as_weights, in_form
from kdcore.labels.mixing.merge import merge, merge_cells
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels

__all__ = ["arithmetic"]


def arithmetic(labels: Sequence[SoftLabels], weights: Tensor) -> SoftLabels:
    """The mean of M labels of the same N positions; `weights` [M], or [M, N] for each position, sum to one.

    LabelError for features, and labels over different classes.
    """
    check_alike(labels, "arithmetic")
    shares = shares_of(weights, labels[0].num_labels)
    if len(labels) == 1:
        return labels[0]
    if any(isinstance(label, TopKLabels) for label in labels):
        return _cells(labels, shares)
    dense = [label for label in labels if isinstance(label, DenseLabels)]
    if len(dense) == len(labels):
        return _dense(dense, shares)
    drawn = [as_weights(label) for label in labels if isinstance(label, DenseLabels | SparseLabels)]
    return _weights(drawn, shares)


def _dense(labels: Sequence[DenseLabels], shares: Tensor) -> DenseLabels:
    logs = shares.log().float()
    mixed = labels[0].log_probs + logs[0][:, None]
    for label, log in zip(labels[1:], logs[1:], strict=True):
        mixed = torch.logaddexp(mixed, label.log_probs + log[:, None])
    return DenseLabels(mixed - mixed.logsumexp(1, keepdim=True))


def _weights(labels: Sequence[SparseLabels], shares: Tensor) -> SparseLabels:
    """Entries of all teachers times their shares, those of one class added up."""
    device = labels[0].ids.device
    starts = np.cumsum([0, *(len(label.ids) for label in labels[:-1])])
    begins = np.stack([label.offsets.cpu().numpy() + start for label, start in zip(labels, starts, strict=True)])
    every = np.concatenate([label.ids.cpu().numpy() for label in labels])
    masses = np.concatenate([label.weights.cpu().numpy() for label in labels])
    merged = merge(every, masses, begins, shares.float().cpu().numpy(), labels[0].num_classes)
    ids, weights, offsets = (torch.from_numpy(array).to(device) for array in merged)
    return SparseLabels(ids, weights, offsets, labels[0].num_classes)


def _cells(labels: Sequence[SoftLabels], shares: Tensor) -> TopKLabels:
    if not any(isinstance(label, DenseLabels) for label in labels):
        named = [in_form(label, "topk", 0) for label in labels]
        return _named_cells([label for label in named if isinstance(label, TopKLabels)], shares.float())
    cells = align(labels)
    probs = torch.einsum("mn,mnu->nu", shares, cells.probs)
    tail = (shares * cells.tails).sum(0)
    total = probs.sum(1) + tail
    log_probs, log_tail = (probs / total[:, None]).log().float(), (tail / total).log().float()
    return TopKLabels(cells.ids, log_probs.masked_fill(cells.ids < 0, float("-inf")), log_tail, cells.num_classes)


def _named_cells(labels: Sequence[TopKLabels], shares: Tensor) -> TopKLabels:
    """Where each label is a few classes, and maybe a tail."""
    device, num_classes = labels[0].ids.device, labels[0].num_classes
    # Exponentials and logarithms by torch: compiled by numba they are made one at a time.
    masses = [label.log_probs.exp().cpu().numpy() for label in labels]
    tails = torch.stack([label.tail_log_prob for label in labels]).exp_().cpu().numpy()
    ids = [label.ids.cpu().numpy() for label in labels]
    merged = merge_cells(ids, masses, tails, shares.cpu().numpy(), num_classes)
    every, probs, tail = (torch.from_numpy(each).to(device) for each in merged)
    return TopKLabels(every, probs.log_(), tail.log_(), num_classes)
