"""Loss and gradient of one chunk of logits, in two passes over them: passes.py."""

from math import inf

import torch
from torch import Tensor

from kdcore.losses.sparse.call import Call
from kdcore.losses.sparse.cells import Seen, compare
from kdcore.losses.sparse.chunk import make_holes, places
from kdcore.losses.sparse.kernels.passes import find, spread, write_entries
from kdcore.losses.sparse.shards import Partial
from kdcore.losses.sparse.support import Support

__all__ = ["fused_chunk_loss"]


def fused_chunk_loss(
    outputs: Tensor,
    bias: Tensor | None,
    support: Support,
    call: Call,
    part: slice,
    weights: Tensor | None,
    narrow: torch.dtype | None,
) -> tuple[Tensor, Tensor | None]:
    """Sums [loss, *METRICS] over the tokens `part`, and d loss / d outputs [N, V] in the type `narrow` (None: none).

    `outputs` float32 [N, V], contiguous, are the head's, to which `bias` [V] is to be added; overwritten.
    """
    count, width = support.ids.shape[1], outputs.shape[1]
    # One entry more for each token: its target.
    ids = torch.cat([support.ids, call.targets[part, None]], 1)
    columns, missing = places(call.shard.local(ids), width)
    logits = outputs.gather(1, columns)
    logits = logits if bias is None else logits + bias[columns]
    logits = call.shard.owned(call.rules.apply(logits).masked_fill_(missing, -inf), ids)
    make_holes(outputs, columns[:, :count], missing[:, :count])
    spans = call.shard.spans(support.num_classes, call.num_outputs, width)
    with torch.cuda.device_of(outputs):
        found = [find(outputs, bias, call.rules, *span) for span in spans]
        whole = [call.shard.whole(partial) for partial in found]
        seen = Seen(logits[:, :count], logits[:, count], tuple(partial.group() for partial in whole))
        sums, gradient, target_gradient = compare(seen, support, call.objective, weights)
        if narrow is None:
            return sums, None
        d_outputs = outputs if narrow == outputs.dtype else torch.empty_like(outputs, dtype=narrow)
        d_outputs[:, spans[-1][1] :] = 0  # of a shard that has no class that counts
        bases, factors = _densities(found, whole, gradient[:, count:])
        for span, base, factor in zip(spans, bases, factors, strict=True):
            spread(outputs, bias, call.rules, *span, base, factor, d_outputs)
        # What the pass gave the target, unless a label names it, is made again: an entry is rounded once.
        group = (ids[None, :, count] >= support.num_classes).long().clamp(max=len(spans) - 1)
        base, factor = bases.gather(0, group)[0], factors.gather(0, group)[0]
        target_gradient = target_gradient[:, None]
        alone = factor[:, None] * (logits[:, count:] - base[:, None]).clamp(max=0.0).exp() + target_gradient
        named = support.ids == ids[:, count:]
        values = torch.cat([gradient[:, :count] + named * target_gradient, alone], 1) * call.rules.slope(logits)
        missing[:, count] |= named.any(1)
        write_entries(d_outputs, columns.masked_fill(missing, -1), values)
    return sums, d_outputs


def _densities(found: list[Partial], whole: list[Partial], gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group the base and the factor [groups, N] of d loss / d z = factor e^(z - base); 0 without a class."""
    bases = torch.stack([partial.best.masked_fill(partial.best == -inf, 0.0) for partial in found])
    # The total is at least 1, which the best adds, but where there is no class.
    shares = [mine.factor(all_.best) / all_.total.clamp(min=1.0) for mine, all_ in zip(found, whole, strict=True)]
    return bases, torch.stack(shares) * gradient.T
