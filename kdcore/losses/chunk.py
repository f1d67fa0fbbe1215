"""Loss and gradient of one chunk of logits, in torch."""

import torch
from torch import Tensor

from kdcore.labels.soft_labels import DenseLabels
from kdcore.losses.cells import Group, Seen, compare
from kdcore.losses.dense import dense_loss
from kdcore.losses.objective import Objective
from kdcore.losses.support import Support

_HOLE = -1e30
"""Takes a class out of a pass over logits: its exponential is 0, and 0 times it is 0, which -inf would not give."""


def chunk_loss(
    logits: Tensor,
    compared: Support | DenseLabels,
    targets: Tensor,
    weights: Tensor | None,
    objective: Objective,
    grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sums [loss, *METRICS] over the tokens of `logits` [N, V], and d loss / d logits. Overwrites `logits`."""
    if isinstance(compared, DenseLabels):
        return dense_loss(logits, compared, targets, weights, objective, grad)
    ids = compared.ids.clamp(min=0)
    missing = compared.ids < 0
    stored = logits.gather(1, ids).masked_fill(missing, float("-inf"))
    target = logits.gather(1, targets[:, None])
    # Where a label has no class, nothing: its place 0 may be a class of another entry.
    holes = torch.full_like(stored, _HOLE).masked_fill(missing, float("inf"))
    logits.scatter_reduce_(1, ids, holes, "amin")
    shares = torch.empty_like(logits)
    parts = [slice(0, compared.num_classes), slice(compared.num_classes, logits.shape[1])]
    parts = [part for part in parts if part.stop > part.start]
    found = [_group(logits[:, part], shares[:, part]) for part in parts]
    seen = Seen(stored, target.squeeze(1), tuple(group for group, _ in found))
    sums, gradient, target_gradient = compare(seen, compared, objective, weights)
    if not grad:
        return sums, None
    count = ids.shape[1]
    for place, (part, (_, total)) in enumerate(zip(parts, found, strict=True)):
        shares[:, part].mul_((gradient[:, count + place] / total)[:, None])
    shares.scatter_add_(1, ids, gradient[:, :count].masked_fill(missing, 0.0))
    return sums, shares.scatter_add_(1, targets[:, None], target_gradient[:, None])


def _group(logits: Tensor, shares: Tensor) -> tuple[Group, Tensor]:
    """One group of classes; `shares` becomes the softmax of `logits` times the total [N] that is returned."""
    best = logits.amax(1)
    torch.sub(logits, best[:, None], out=shares).exp_()
    total = shares.sum(1)
    empty = best <= _HOLE / 2
    nothing = float("-inf")
    mean = (torch.linalg.vecdot(shares, logits) / total).masked_fill(empty, 0.0)
    lse = (best + total.log()).masked_fill(empty, nothing)
    return Group(lse, best.masked_fill(empty, nothing), mean), total
