"""Two distributions over other vocabularies, compared by their sorted probabilities: ULD, and GOLD's hybrid.

ULD (Boizard et al. 2024, arXiv 2402.12030): L1 between both, sorted. GOLD (Patiño et al. 2025, as in trl): classes that
are the same string in both vocabularies by a Jensen-Shannon divergence, the others sorted.

Of a stored top-k label the teacher's k probabilities are known, and the rest by its sum: the rest is one cell on
either side, which gives no more than the distance of whole distributions, and that itself where the rest is nothing.
From hidden states, and for chunks of text, they are in `opening.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.soft_labels import TopKLabels

__all__ = ["SharedClasses", "hybrid_loss", "sorted_loss"]

Name = TypeVar("Name")
_LEAST = 1e-8
"""The least mass of a shared class, as trl has it."""


def sorted_loss(
    student_logits: Tensor, labels: TopKLabels, student_scale: Tensor | None = None, teacher_scale: Tensor | None = None
) -> Tensor:
    """ULD, summed over G places of the text where both sides begin a token: student logits [G, V], G labels.

    The scales float [G] are the probabilities of the other tokens of a chunk, where it has more than one (GOLD):
    distributions are multiplied by them.
    """
    theirs, ours = _both(student_logits, labels, student_scale, teacher_scale)
    masses = labels.log_probs.exp().to(ours.dtype) * _column(teacher_scale)
    return _sorted_l1(masses, labels.ids >= 0, ours, theirs).sum()


@dataclass(frozen=True)
class SharedClasses:
    """Classes of equal strings: `student_of` int64 [teacher's classes] is the student's class of each, or -1."""

    student_of: Tensor

    @classmethod
    def of(cls, teacher: Mapping[Name, int], student: Mapping[Name, int], num_classes: int) -> "SharedClasses":
        """Of two vocabularies, entry to id; the teacher has `num_classes`."""
        found = [(number, student[name]) for name, number in teacher.items() if name in student]
        theirs, ours = torch.tensor(found, dtype=torch.int64).reshape(-1, 2).unbind(1)
        student_of, known = torch.full((num_classes,), -1), theirs < num_classes
        student_of[theirs[known]] = ours[known]
        return cls(student_of)

    @property
    def share(self) -> float:
        """How much of the teacher's vocabulary is shared."""
        return float((self.student_of >= 0).float().mean())


def hybrid_loss(
    student_logits: Tensor,
    labels: TopKLabels,
    shared: SharedClasses,
    beta: float = 0.5,
    student_scale: Tensor | None = None,
    teacher_scale: Tensor | None = None,
    shared_weight: float | None = None,
) -> Tensor:
    """GOLD's hybrid, summed over places; arguments as in `sorted_loss`.

    shared_weight JSD_beta + (1 - shared_weight) L1: the first over the shared classes that a label names (`beta` is the
    teacher's share of the mixture; 0: forward KL, 1: reverse), the second over its others, sorted, and the rest.
    `shared_weight` is by default the share of the teacher's vocabulary.
    """
    rest, ours = _both(student_logits, labels, student_scale, teacher_scale)
    theirs = labels.log_probs.exp().to(ours.dtype) * _column(teacher_scale)
    known = labels.ids >= 0
    matched = shared.student_of.to(labels.ids.device)[labels.ids.clamp(min=0)]
    same = (matched >= 0) & known
    place = matched.clamp(min=0)
    divergence = _jsd(theirs, ours.gather(1, place), beta).masked_fill(~same, 0.0).sum(1)
    # Shared classes leave both sides: those of the student that no label names are in its rest.
    alone = torch.ones(ours.shape[1], dtype=torch.bool, device=ours.device)
    alone[shared.student_of[shared.student_of >= 0].to(ours.device)] = False
    named = ours.gather(1, place).masked_fill(~same, 0.0).sum(1)
    others = ours * alone
    unnamed = ours.sum(1) - named - others.sum(1)
    distance = _sorted_l1(theirs, known & ~same, others, rest, unnamed)
    weight = shared.share if shared_weight is None else shared_weight
    return (weight * divergence + (1 - weight) * distance).sum()


def _both(
    student_logits: Tensor, labels: TopKLabels, student_scale: Tensor | None, teacher_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The teacher's rest [G], and the student's probabilities [G, V]."""
    if len(student_logits) != labels.num_labels:
        raise LabelError(f"one label a place is needed: {len(student_logits)} places, {labels.num_labels} labels")
    wide = torch.float64 if student_logits.dtype == torch.float64 else torch.float32
    ours = student_logits.to(wide).softmax(1) * _column(student_scale)
    return labels.tail_log_prob.exp().to(wide) * (1.0 if teacher_scale is None else teacher_scale), ours


def _column(scale: Tensor | None) -> Tensor | float:
    return 1.0 if scale is None else scale[:, None]


def _sorted_l1(
    theirs: Tensor, counted: Tensor, ours: Tensor, their_rest: Tensor, our_rest: Tensor | float = 0.0
) -> Tensor:
    """L1 [G] of sorted masses [G, K], where `counted`, and [G, V]: the largest one by one, all others as one cell.

    Those that do not count are not compared with nothing, one by one: the label says no more of them than of its rest.
    """
    width = min(theirs.shape[1], ours.shape[1])
    top, best = theirs.masked_fill(~counted, 0.0).sort(1, descending=True).values, ours.topk(width, dim=1).values
    beyond = top[:, width:].sum(1) + their_rest
    paired = torch.arange(width, device=ours.device) < counted.sum(1, keepdim=True)
    best = best.masked_fill(~paired, 0.0)
    left = (ours.sum(1) - best.sum(1)).clamp(min=0) + our_rest
    return (top[:, :width] - best).abs().sum(1) + (beyond - left).abs()


def _jsd(theirs: Tensor, ours: Tensor, beta: float) -> Tensor:
    """Of each class, of masses that need not sum to one."""
    log_t, log_s = theirs.clamp(min=_LEAST).log(), ours.clamp(min=_LEAST).log()
    if beta == 0:
        return log_t.exp() * (log_t - log_s)
    if beta == 1:
        return log_s.exp() * (log_s - log_t)
    mixture = (beta * log_t.exp() + (1 - beta) * log_s.exp()).log()
    return beta * log_t.exp() * (log_t - mixture) + (1 - beta) * log_s.exp() * (log_s - mixture)
