"""Loss and gradient of one chunk of logits, in torch."""

from math import inf

import torch
from torch import Tensor

from kdcore.labels.soft_labels import DenseLabels
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.cells import Seen, compare
from kdcore.losses.sparse.dense import dense_loss
from kdcore.losses.sparse.shards import WHOLE, Partial, Shard
from kdcore.losses.sparse.support import Support

__all__ = ["HOLE", "chunk_loss", "make_holes", "places"]

HOLE = -1e30
"""Takes a class out of a pass over logits: its exponential is 0, and 0 times it is 0, which -inf would not give."""
_CACHED = 1 << 20
"""Logits that a CPU goes over several times at once."""


def chunk_loss(
    logits: Tensor,
    compared: Support | DenseLabels,
    targets: Tensor,
    weights: Tensor | None,
    objective: Objective,
    grad: bool,
    shard: Shard = WHOLE,
    num_outputs: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Sums [loss, *METRICS] over the tokens of `logits` [N, V], and d loss / d logits. Overwrites `logits`.

    With a `shard`, V are the classes of this rank, of `num_outputs` that all have, and the sums are of all classes.
    """
    if isinstance(compared, DenseLabels):
        return dense_loss(logits, compared, targets, weights, objective, grad)
    width = logits.shape[1]
    named, missing = places(shard.local(compared.ids), width)
    stored = shard.owned(logits.gather(1, named).masked_fill(missing, float("-inf")), compared.ids)
    aim, elsewhere = places(shard.local(targets)[:, None], width)
    target = shard.owned(logits.gather(1, aim).masked_fill(elsewhere, float("-inf")), targets[:, None])
    make_holes(logits, named, missing)
    parts = [slice(*span) for span in shard.spans(compared.num_classes, num_outputs or width, width)]
    found = [_exponentials(logits[:, part]) for part in parts]
    shares = logits  # overwritten, as a second tensor of this size would be most of the memory
    shares[:, parts[-1].stop :] = 0  # of a shard that has no class that counts
    whole = [shard.whole(partial) for partial in found]
    seen = Seen(stored, target.squeeze(1), tuple(partial.group() for partial in whole))
    sums, gradient, target_gradient = compare(seen, compared, objective, weights)
    if not grad:
        return sums, None
    count = named.shape[1]
    for place, part in enumerate(parts):
        # The total is at least 1, which the best adds, but where there is no class.
        factor = found[place].factor(whole[place].best) / whole[place].total.clamp(min=1.0)
        shares[:, part].mul_((factor * gradient[:, count + place])[:, None])
    shares.scatter_add_(1, named, gradient[:, :count].masked_fill(missing, 0.0))
    return sums, shares.scatter_add_(1, aim, target_gradient[:, None].masked_fill(elsewhere, 0.0))


def places(ids: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Columns of `ids`, 0 for those that have none here, and which these are."""
    missing = (ids < 0) | (ids >= width)
    return ids.masked_fill(missing, 0), missing


def make_holes(logits: Tensor, columns: Tensor, missing: Tensor) -> None:
    """Takes `columns` [N, K] out of `logits` [N, V]; of those `missing` nothing, as 0 may be another entry's column."""
    holes = torch.full_like(columns, HOLE, dtype=logits.dtype).masked_fill(missing, inf)
    logits.scatter_reduce_(1, columns, holes, "amin")


def _exponentials(logits: Tensor) -> Partial:
    """Of one group of classes [N, C]; overwrites `logits` by their exponentials, relative to the best of each token."""
    if logits.shape[1] == 0:
        return Partial.nothing(logits.sum(1))
    best = logits.amax(1)
    total, moment = torch.empty_like(best), torch.empty_like(best)
    # On a CPU as many tokens at a time as its cache holds.
    step = max(1, _CACHED // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for first in range(0, len(logits), step):
        rows = slice(first, first + step)
        shares = (logits[rows] - best[rows, None]).exp_()
        total[rows], moment[rows] = shares.sum(1), torch.linalg.vecdot(shares, logits[rows])
        logits[rows] = shares
    empty = best <= HOLE / 2
    return Partial(*(value.masked_fill(empty, fill) for value, fill in ((best, -inf), (total, 0.0), (moment, 0.0))))
