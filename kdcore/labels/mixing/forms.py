"""Labels of different codecs in one form, so that they can lie side by side in a batch."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from kdcore.errors import LabelError
from kdcore.labels.mixing.cells import padded
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, SparseLabels, TopKLabels, concat

__all__ = [
    "Form",
    "as_weights",
    "choose",
    "common_form",
    "cut_classes",
    "form_of",
    "hard_labels",
    "in_form",
    "side_by_side",
]

Form = Literal["dense", "weights", "topk"]


def form_of(labels: SoftLabels) -> Form:
    """How labels say a distribution; LabelError for features and spans."""
    if isinstance(labels, DenseLabels):
        return "dense"
    if isinstance(labels, SparseLabels):
        return "weights"
    if isinstance(labels, TopKLabels):
        return "topk"
    raise LabelError("features and spans say no distribution, so that there is nothing to mix: leave their store out")


def common_form(forms: Sequence[Form]) -> Form:
    """The form that holds labels of all these: topk if one of them has a tail, else weights if one is drawn."""
    return next(form for form in ("topk", "weights", "dense") if form in forms)


def in_form(labels: SoftLabels, form: Form, k: int) -> SoftLabels:
    """The same labels in a form that holds them; nothing is lost but what `k` classes leave of dense labels (topk).

    LabelError for a form that cannot hold them: weights and dense labels have no tail, dense ones are not drawn.
    """
    found = form_of(labels)
    if found == form:
        return labels
    if form == "weights" and isinstance(labels, DenseLabels):
        return as_weights(labels)
    if form == "topk" and isinstance(labels, DenseLabels):
        top, ids = labels.log_probs.topk(min(k, labels.num_classes), 1)
        tail = labels.log_probs.scatter(1, ids, float("-inf")).logsumexp(1)
        return TopKLabels(ids, top, tail, labels.num_classes)
    if form == "topk" and isinstance(labels, SparseLabels):
        ids, weights = padded(labels)
        return TopKLabels(ids, weights.log(), weights.new_full(ids.shape[:1], float("-inf")), labels.num_classes)
    raise LabelError(f"labels that are {found} cannot be held as {form}")


def as_weights(labels: DenseLabels | SparseLabels) -> SparseLabels:
    """Dense labels as weights of every class that has mass; drawn ones as they are."""
    if isinstance(labels, SparseLabels):
        return labels
    has_mass = labels.log_probs > float("-inf")
    counts = has_mass.sum(1)
    label_of, ids = has_mass.nonzero(as_tuple=True)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseLabels(ids, labels.log_probs[label_of, ids].exp(), offsets, labels.num_classes)


def hard_labels(targets: Tensor, num_classes: int, form: Form) -> SoftLabels:
    """All mass on `targets` int64 [N], as labels of a form."""
    count = len(targets)
    sure = SparseLabels(targets, torch.ones(count), torch.arange(count + 1), num_classes)
    if form != "dense":
        return in_form(sure, form, 1)
    return DenseLabels(torch.full((count, num_classes), float("-inf")).scatter(1, targets[:, None], 0.0))


def side_by_side(parts: Sequence[SoftLabels], k: int, order: Tensor | None = None) -> SoftLabels:
    """Labels of different forms one after the other, in the form that holds all; then those at `order` int64, if given.

    Of dense labels beside top-k ones `k` classes are kept, whatever the others have: a label hangs on no other one.
    Top-k labels of fewer classes are filled up with empty cells (id -1).
    """
    form = common_form([form_of(part) for part in parts])
    alike = [in_form(part, form, k) for part in parts]
    width = max((part.ids.shape[1] for part in alike if isinstance(part, TopKLabels)), default=0)
    alike = [_widened(part, width) if isinstance(part, TopKLabels) else part for part in alike]
    joined = alike[0] if len(alike) == 1 else concat(alike)
    return joined if order is None else joined.index(order)


def choose(labels: Sequence[SoftLabels], which: Tensor, k: int) -> SoftLabels:
    """Of each position the label of teacher `which` int64 [N], as it is; `k` as in `side_by_side`."""
    places = [(which == number).nonzero().squeeze(1) for number in range(len(labels))]
    parts = [label.index(place) for label, place in zip(labels, places, strict=True)]
    return side_by_side(parts, k, torch.cat(places).argsort())


def cut_classes(labels: SoftLabels, num_classes: int) -> SoftLabels:
    """Labels without the classes from `num_classes` on, what is left made to sum to one: for padding rows of a head.

    LabelError where a label has no mass below.
    """
    if labels.num_classes <= num_classes:
        return labels
    if isinstance(labels, DenseLabels):
        kept = labels.log_probs[:, :num_classes]
        total = kept.logsumexp(1, keepdim=True)
        _check_left(total, num_classes)
        return DenseLabels(kept - total)
    if isinstance(labels, TopKLabels):
        outside = labels.ids >= num_classes
        cells = torch.cat([labels.log_probs.masked_fill(outside, float("-inf")), labels.tail_log_prob[:, None]], 1)
        total = cells.logsumexp(1, keepdim=True)
        _check_left(total, num_classes)
        cells = cells - total
        ids = labels.ids.masked_fill(outside, -1)
        return TopKLabels(ids, cells[:, :-1].contiguous(), cells[:, -1].contiguous(), num_classes)
    if isinstance(labels, SparseLabels):
        return _cut_weights(labels, num_classes)
    raise LabelError("features and spans have no classes to cut")


def _cut_weights(labels: SparseLabels, num_classes: int) -> SparseLabels:
    inside, label = labels.ids < num_classes, labels.label_of_entry()
    if bool(inside.all()):
        return SparseLabels(labels.ids, labels.weights, labels.offsets, num_classes)
    kept = label[inside]
    total = labels.weights.new_zeros(labels.num_labels).index_add_(0, kept, labels.weights[inside])
    _check_left(total.log(), num_classes)
    counts = kept.bincount(minlength=labels.num_labels)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return SparseLabels(labels.ids[inside], labels.weights[inside] / total[kept], offsets, num_classes)


def _check_left(log_total: Tensor, num_classes: int) -> None:
    if bool((log_total == float("-inf")).any()):
        raise LabelError(
            f"a label has all its mass on classes from {num_classes} on, which are padding in another store of the "
            "mix: the stores are of different tokenizers, or the padding rows of a teacher were trained"
        )


def _widened(labels: TopKLabels, width: int) -> TopKLabels:
    missing = width - labels.ids.shape[1]
    if not missing:
        return labels
    ids = torch.nn.functional.pad(labels.ids, (0, missing), value=-1)
    log_probs = torch.nn.functional.pad(labels.log_probs, (0, missing), value=float("-inf"))
    return TopKLabels(ids, log_probs, labels.tail_log_prob, labels.num_classes)
