"""Labels that name few classes as cells: those classes, and one for all others."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcore.config.loss import Tail
from kdcore.errors import LabelError
from kdcore.labels.apart import ApartLabels
from kdcore.labels.chunk_labels import ChunkLabels
from kdcore.labels.opening_labels import OpeningLabels
from kdcore.labels.soft_labels import DenseLabels, FeatureLabels, SoftLabels, SparseLabels, TopKLabels
from kdcore.labels.span_labels import SpanLabels

__all__ = ["Support", "check_fit", "chunks"]

_NOTHING = float("-inf")


@dataclass(frozen=True)
class Support:
    """K named classes of each of N tokens: `ids` int64 [N, K], distinct in a row, -1 where there are fewer.

    `log_t` [N, K] and `tail_log_t` [N] are logarithms of the teacher's mass, -inf where it has none. `best` bool [N, K]
    marks the classes that the teacher thinks most of. Outputs from `num_classes` on are no classes of the teacher's.
    """

    ids: Tensor
    log_t: Tensor
    tail_log_t: Tensor
    best: Tensor
    num_classes: int


def check_fit(labels: SoftLabels | None, targets: Tensor, num_tokens: int, num_outputs: int) -> None:
    """Raise LabelError unless there is one target and one label per token, over classes that the student has.

    That targets are outputs is checked at once on a CPU; a GPU, which is not waited for, stops with its own assertion.
    """
    if targets.shape != (num_tokens,):
        raise LabelError(
            f"one target per token is needed: {num_tokens} tokens, targets of shape {tuple(targets.shape)}"
        )
    if labels is not None:
        _check_labels(labels, num_tokens, num_outputs)
    _check_targets(targets, num_outputs)


def _check_labels(labels: SoftLabels, num_tokens: int, num_outputs: int) -> None:
    if labels.num_labels != num_tokens:
        raise LabelError(f"one soft label per token is needed: {num_tokens} tokens, {labels.num_labels} labels")
    if isinstance(labels, SpanLabels | ChunkLabels | OpeningLabels):
        raise LabelError(
            "this loss compares distributions over the student's tokens, and the labels are of another tokenizer's, or "
            "likelihoods of text (codec span): train with a recipe, or with kdcore.losses.cross_tokenizer"
        )
    if isinstance(labels, ApartLabels):
        raise LabelError(
            "this loss compares one distribution, but labels.mix.rule 'apart' keeps those of several teachers apart: "
            "set the rule to arithmetic, or train with a recipe's training.losses"
        )
    if isinstance(labels, FeatureLabels):
        raise LabelError(
            "this loss compares distributions, but the store holds features: set labels.codec to one of a distribution"
        )
    if labels.num_classes > num_outputs:
        raise LabelError(
            f"labels over {labels.num_classes} classes do not fit a student with {num_outputs} outputs; the student "
            "must be built for the teacher's tokenizer or classes: change `student`, or training.loss.num_classes"
        )


def _check_targets(targets: Tensor, num_outputs: int) -> None:
    inside = ((targets >= 0) & (targets < num_outputs)).all()
    told = f"targets must be among the {num_outputs} outputs of the student that count"
    if targets.device.type != "cpu":
        torch._assert_async(inside, told)
    elif not inside:
        wrong = targets[(targets < 0) | (targets >= num_outputs)]
        raise LabelError(
            f"{told}, got {int(wrong[0])} ({len(wrong)} such tokens). Leave out the hidden states of tokens that are "
            "not trained, instead of marking them (-100); or raise training.loss.num_classes"
        )


def chunks(
    labels: SoftLabels | None, targets: Tensor, tail: Tail | None, num_outputs: int, size: int
) -> Iterator[tuple[slice, Support | DenseLabels]]:
    """Consecutive tokens, at most `size` at a time, with what is to be compared; no token gives none.

    A GPU is waited for at most once, before the first: where labels of varying length were made on it.
    """
    parts = [slice(start, min(start + size, len(targets))) for start in range(0, len(targets), size)]
    cuts = _cuts(labels, size) if parts and isinstance(labels, SparseLabels) else []
    for number, part in enumerate(parts):
        if labels is None:
            yield part, _no_label(targets[part], num_outputs)
        elif isinstance(labels, SparseLabels):
            yield part, _of_weights(labels, part, *cuts[number])
        elif isinstance(labels, TopKLabels):
            yield part, _of_topk(labels.index(part), targets[part], tail)
        elif isinstance(labels, DenseLabels):
            yield part, labels.index(part)


def _no_label(targets: Tensor, num_outputs: int) -> Support:
    ids = targets[:, None][:, :0]
    log_t = ids.float()
    return Support(ids, log_t, log_t.new_full(targets.shape, _NOTHING), ids.bool(), num_outputs)


def _of_topk(labels: TopKLabels, targets: Tensor, tail: Tail | None) -> Support:
    ids, log_t, tail_log_t = labels.ids, labels.log_probs, labels.tail_log_prob
    best = log_t == log_t.amax(1, keepdim=True)
    if tail == "label":
        # One more class, the target, unless it is among the k already.
        named = ids == targets[:, None]
        known = named.any(1)
        log_t = torch.where(named, torch.logaddexp(log_t, tail_log_t[:, None]), log_t)
        log_t = torch.cat([log_t, tail_log_t.masked_fill(known, _NOTHING)[:, None]], 1)
        ids = torch.cat([ids, targets.masked_fill(known, -1)[:, None]], 1)
        best = torch.cat([best, torch.zeros_like(best[:, :1])], 1)
        tail_log_t = torch.full_like(tail_log_t, _NOTHING)
    return Support(ids, log_t, tail_log_t, best, labels.num_classes)


def _cuts(labels: SparseLabels, size: int) -> list[tuple[int, int, int]]:
    """First entry, end of entries and most entries of a label, for each `size` labels."""
    offsets = labels.offsets.cpu().numpy() if labels.host_offsets is None else labels.host_offsets
    starts = np.arange(0, labels.num_labels, size)
    ends = offsets[np.minimum(starts + size, labels.num_labels)]
    widest = np.maximum.reduceat(np.diff(offsets), starts)
    return list(zip(offsets[starts].tolist(), ends.tolist(), widest.tolist(), strict=True))


def _of_weights(labels: SparseLabels, part: slice, first: int, end: int, width: int) -> Support:
    offsets = labels.offsets[part.start : part.stop + 1] - first
    label = torch.repeat_interleave(offsets.diff(), output_size=end - first)
    place = torch.arange(end - first, device=label.device) - offsets[label]
    shape = (part.stop - part.start, max(1, width))
    ids = label.new_full(shape, -1).index_put_((label, place), labels.ids[first:end])
    weights = labels.weights.new_zeros(shape).index_put_((label, place), labels.weights[first:end])
    best = weights == weights.amax(1, keepdim=True)
    return Support(ids, weights.log(), weights.new_full(shape[:1], _NOTHING), best, labels.num_classes)
