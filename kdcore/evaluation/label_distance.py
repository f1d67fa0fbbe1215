"""How far two labels of the same thing are apart, and how far codec and numerics let them be."""

from typing import Any

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels import (
    ApartLabels,
    Codec,
    DenseLabels,
    FeatureLabels,
    OpeningLabels,
    SoftLabels,
    SpanLabels,
    SparseLabels,
    TopKLabels,
)

__all__ = ["distance", "room"]

# What a forward pass in another batch, or on another device, may change of a label in this dtype.
_NUMERICS = {"float32": 2e-3, "float16": 1e-2, "bfloat16": 5e-2}
_HALF = 2.0**-10  # the largest step of a float16, relative
_FLOOR = -30.0
# A point of a sampled label falls on another class when a border between classes passes it.
_MOVED = 0.02


def distance(stored: SoftLabels, fresh: SoftLabels) -> Tensor:
    """Of each of N labels, float32 [N]; both were decoded by one codec.

    Distributions: the probability that lies on other classes, half of the sum of absolute differences. Of the classes
    that only one top-k label names, the other says no more than that they have less than its own least one. Sampled
    labels: the share of draws that fell on other classes. Spans: the larger difference of their two probabilities, and
    one of tokens of other bytes. Features: the norm of the difference over that of `fresh`.
    """
    if isinstance(stored, FeatureLabels) and isinstance(fresh, FeatureLabels):
        return (stored.features - fresh.features).norm(dim=1) / fresh.features.norm(dim=1).clamp(min=1e-30)
    if isinstance(stored, DenseLabels) and isinstance(fresh, DenseLabels):
        return (stored.log_probs.exp() - fresh.log_probs.exp()).abs().sum(1) / 2
    if isinstance(stored, SparseLabels) and isinstance(fresh, SparseLabels):
        return (_scattered(stored) - _scattered(fresh)).abs().sum(1) / 2
    if isinstance(stored, TopKLabels) and isinstance(fresh, TopKLabels):
        return _of_top(stored, fresh)
    if isinstance(stored, SpanLabels) and isinstance(fresh, SpanLabels):
        return _of_spans(stored, fresh)
    raise LabelError(f"labels of one kind are compared, got {type(stored).__name__} and {type(fresh).__name__}")


def room(codec: Codec, fresh: SoftLabels, dtype: str) -> Tensor:
    """The `distance` that rounding can make, float32 [N]: a codec's step on each class, and the teacher's dtype."""
    numerics, spec = _NUMERICS.get(dtype, _NUMERICS["bfloat16"]), codec.spec()
    if isinstance(fresh, FeatureLabels):
        return _step_of_features(codec, fresh) + numerics
    if isinstance(fresh, SparseLabels):
        return torch.full((fresh.num_labels,), 2 / spec["draws"] + _MOVED + numerics)
    if isinstance(fresh, SpanLabels):
        own, boundary = (log.clamp(min=_FLOOR) for log in (fresh.log_probs, fresh.boundary_log_probs))
        steps = own.exp() * _steps(own, {}), boundary.exp() * _steps(boundary, {"bits": 8})
        return torch.maximum(*steps) + numerics
    assert not isinstance(fresh, ApartLabels | OpeningLabels), "no codec makes them: they are made of several labels"
    cells = fresh.log_probs
    if isinstance(fresh, TopKLabels):
        cells = torch.cat([cells, fresh.tail_log_prob[:, None]], 1)
    return (cells.exp() * _steps(cells.clamp(min=_FLOOR), spec)).sum(1) / 2 + numerics


def _steps(log_probs: Tensor, spec: dict[str, Any]) -> Tensor:
    """How much a step of the codec changes a probability, relative."""
    if spec.get("bits", 16) == 16:
        return -log_probs * _HALF
    return (2 * (-log_probs).clamp(min=0).sqrt() + 1 / 53) / 53  # the byte is 53 sqrt(-l)


def _step_of_features(codec: Codec, fresh: FeatureLabels) -> Tensor:
    scales = getattr(codec, "scales", None)
    if scales is None:
        return torch.full((fresh.num_labels,), _HALF)
    norms = fresh.features.norm(dim=1).clamp(min=1e-30)
    return torch.from_numpy(scales).norm() / norms


def _scattered(labels: SparseLabels) -> Tensor:
    weights = torch.zeros(labels.num_labels, labels.num_classes)
    return weights.index_put_((labels.label_of_entry(), labels.ids), labels.weights, accumulate=True)


def _of_top(stored: TopKLabels, fresh: TopKLabels) -> Tensor:
    ours, theirs = _filled(stored, fresh), _filled(fresh, stored)
    tails = [label.tail_log_prob.exp() - filled for label, (_, filled) in ((stored, ours), (fresh, theirs))]
    return ((ours[0] - theirs[0]).abs().sum(1) + (tails[0] - tails[1]).abs()) / 2


def _of_spans(stored: SpanLabels, fresh: SpanLabels) -> Tensor:
    own = (stored.log_probs.exp() - fresh.log_probs.exp()).abs()
    boundary = (stored.boundary_log_probs.exp() - fresh.boundary_log_probs.exp()).abs()
    moved = (stored.begins != fresh.begins) | (stored.ends != fresh.ends)
    return torch.maximum(own, boundary).masked_fill(moved, 1.0)


def _filled(labels: TopKLabels, other: TopKLabels) -> tuple[Tensor, Tensor]:
    """Weights [N, V] of the classes that either names, and how much of `labels`' tail [N] that takes."""
    size = (labels.num_labels, labels.num_classes)
    mine, theirs = labels.log_probs.exp(), other.log_probs.exp()
    weights = torch.zeros(size).scatter_(1, labels.ids, mine)
    named = torch.zeros(size, dtype=torch.bool).scatter_(1, labels.ids, True)
    guess = torch.zeros(size).scatter_(1, other.ids, torch.minimum(theirs, mine.amin(1, keepdim=True)))
    guess = guess.masked_fill(named, 0.0)
    return weights + guess, guess.sum(1)
