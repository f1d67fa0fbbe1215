"""Loss and gradient of one chunk of logits: cross-entropy, and KL over the cells of a soft label."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.soft_labels import DenseLabels, FeatureLabels, SoftLabels, SparseLabels, TopKLabels

METRICS = ("kl", "cross_entropy", "agreement", "tokens")
Pull = Callable[[Tensor, float], None]
"""Subtracts scale x teacher from d loss / d logits, in place."""


def check_fit(labels: SoftLabels | None, targets: Tensor, num_tokens: int, num_outputs: int) -> None:
    """Raise LabelError unless there is one target and one label per token, over classes that the student has."""
    if targets.shape != (num_tokens,):
        raise LabelError(
            f"one target per token is needed: {num_tokens} tokens, targets of shape {tuple(targets.shape)}"
        )
    if labels is None:
        return
    if labels.num_labels != num_tokens:
        raise LabelError(f"one soft label per token is needed: {num_tokens} tokens, {labels.num_labels} labels")
    if isinstance(labels, FeatureLabels):
        raise LabelError(
            "this loss compares distributions, but the store holds features: set labels.codec to one of a distribution"
        )
    classes = labels.num_classes
    if classes > num_outputs:
        raise LabelError(
            f"labels over {classes} classes do not fit a student with {num_outputs} outputs; the student must be built "
            "for the teacher's tokenizer or classes: change `student`"
        )


def chunk_loss(
    logits: Tensor, labels: SoftLabels | None, targets: Tensor, weights: Tensor | None, hard_weight: float, grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Sums (loss, kl, cross-entropy, agreement, tokens) of one chunk, and d loss / d logits. Overwrites `logits`."""
    hard = 1.0 if labels is None else hard_weight
    best = logits.amax(-1)
    lse = logits.logsumexp(-1)
    cross_entropy = lse - logits.gather(1, targets[:, None]).squeeze(1)
    kl, agreement, total, pull = torch.zeros_like(lse), torch.zeros_like(lse), torch.ones_like(lse), None
    if isinstance(labels, TopKLabels):
        kl, agreement, total, pull = _topk(logits, lse, best, labels)
    elif isinstance(labels, DenseLabels):
        kl, agreement, total, pull = _dense(logits, lse, best, labels)
    elif isinstance(labels, SparseLabels):
        kl, agreement, total, pull = _sparse(logits, lse, best, labels)
    loss = hard * cross_entropy + (1 - hard) * kl if labels is not None else cross_entropy
    weights = torch.ones_like(lse) if weights is None else weights
    sums = torch.stack([loss, kl, cross_entropy, agreement, torch.ones_like(lse)]) @ weights
    if not grad:
        return sums, None
    d_logits = logits.sub_(lse[:, None]).exp_().mul_(((1 - hard) * total + hard)[:, None])
    if pull is not None and hard < 1:
        pull(d_logits, 1 - hard)
    if hard > 0:
        d_logits.scatter_add_(1, targets[:, None], torch.full_like(targets, -hard, dtype=d_logits.dtype)[:, None])
    return sums, d_logits.mul_(weights[:, None])


def _cell(log_t: Tensor, log_p: Tensor) -> Tensor:
    """t (ln t - ln p), which is 0 where t is 0."""
    t = log_t.exp()
    return torch.where(t > 0, t * (log_t - log_p), torch.zeros_like(t))


def _topk(logits: Tensor, lse: Tensor, best: Tensor, labels: TopKLabels) -> tuple[Tensor, Tensor, Tensor, Pull]:
    ids, log_t = labels.ids, labels.log_probs.to(logits.dtype)
    tail_t = labels.tail_log_prob.to(logits.dtype)
    stored = logits.gather(1, ids)
    # The tail's own logsumexp, not 1 - sum p: exact where the student gives the tail almost nothing.
    tail = logits.scatter(1, ids, float("-inf"))
    tail_lse = tail.logsumexp(-1)
    kl = _cell(log_t, stored - lse[:, None]).sum(-1) + _cell(tail_t, tail_lse - lse)
    top = stored.gather(1, log_t.argmax(-1, keepdim=True)).squeeze(1)
    t, tail_mass = log_t.exp(), tail_t.exp()

    def pull(d_logits: Tensor, scale: float) -> None:
        # A vocabulary without tail has lse = -inf; +inf makes its softmax 0 instead of NaN.
        base = torch.where(tail_lse == float("-inf"), torch.full_like(tail_lse, float("inf")), tail_lse)
        d_logits -= tail.sub_(base[:, None]).exp_().mul_((scale * tail_mass)[:, None])
        d_logits.scatter_add_(1, ids, -scale * t)

    return kl, (top >= best).to(logits.dtype), t.sum(-1) + tail_mass, pull


def _dense(logits: Tensor, lse: Tensor, best: Tensor, labels: DenseLabels) -> tuple[Tensor, Tensor, Tensor, Pull]:
    log_t = labels.log_probs.to(logits.dtype)
    classes = log_t.shape[1]
    kl = _cell(log_t, logits[:, :classes] - lse[:, None]).sum(-1)
    top = logits.gather(1, log_t.argmax(-1, keepdim=True)).squeeze(1)
    t = log_t.exp()

    def pull(d_logits: Tensor, scale: float) -> None:
        d_logits[:, :classes] -= scale * t

    return kl, (top >= best).to(logits.dtype), t.sum(-1), pull


def _sparse(logits: Tensor, lse: Tensor, best: Tensor, labels: SparseLabels) -> tuple[Tensor, Tensor, Tensor, Pull]:
    """KL of the label's own weights: its gradient is unbiased for that of the whole teacher, its value is not.

    The value is larger by what the teacher's entropy exceeds that of the few weights, which no student changes.
    """
    label, ids, weights = labels.label_of_entry(), labels.ids, labels.weights.to(logits.dtype)
    stored = logits[label, ids]
    zeros = torch.zeros_like(lse)
    kl = zeros.index_add(0, label, weights * (weights.log() - stored + lse[label]))
    largest = zeros.scatter_reduce(0, label, weights, "amax")
    agrees = (weights >= largest[label]) & (stored >= best[label])
    agreement = zeros.scatter_reduce(0, label, agrees.to(logits.dtype), "amax")

    def pull(d_logits: Tensor, scale: float) -> None:
        d_logits.index_put_((label, ids), -scale * weights, accumulate=True)

    return kl, agreement, zeros.index_add(0, label, weights), pull
