"""The sparse loss on CUDA: two passes over tiles of logits, and between them the cells of `losses.cells`.

The second pass makes the logits again, so that forward and backward are 8 T D V operations. No numbers of [T, V] exist
but in a buffer of at most 256 MB, and of 128 classes of each token at the least.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.losses.by_hand import LossByHand
from kdcore.losses.sparse.call import Call, compute_dtype, grad_dtype
from kdcore.losses.sparse.cells import Seen, compare
from kdcore.losses.sparse.kernels.gathers import entries_by_class, logits_of, weighted_rows
from kdcore.losses.sparse.kernels.gradients import Gradients, add_group
from kdcore.losses.sparse.kernels.statistics import partial_sums, sorted_names
from kdcore.losses.sparse.kernels.tiles import Head
from kdcore.losses.sparse.support import Support, chunks

__all__ = ["KernelLoss"]


@dataclass(frozen=True)
class KernelLoss(LossByHand):
    """The loss of `call`, whose labels name few classes and whose products are not float64.

    Of `hidden` [T, D], `weight` [V, D] and `bias` [V] or None on one CUDA device; T, D and V are at least 1.
    """

    call: Call

    def sums(self, ctx: Any, tensors: Sequence[Any]) -> Tensor:
        """See LossByHand."""
        call, (hidden, weight, bias) = self.call, tensors
        ctx.dtype, ctx.needs = compute_dtype(hidden), ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False), torch.cuda.device_of(hidden):
            inputs, head = self._inputs(ctx, hidden, weight, bias)
            ((_, support),) = chunks(call.labels, call.targets, call.objective.tail, call.num_outputs, len(hidden))
            assert isinstance(support, Support)
            ctx.spans = call.shard.spans(support.num_classes, call.num_outputs, len(weight))
            # One entry more for each token: its target.
            ids = torch.cat([support.ids, call.targets[:, None]], 1)
            local = call.shard.local(ids)
            logits = call.shard.owned(logits_of(inputs, head, local), ids)
            names = sorted_names(local[:, :-1], len(weight))
            partials = [partial_sums(inputs, head, names, *span) for span in ctx.spans]
            groups = [call.shard.whole(partial).group() for partial in partials]
            weights = None if call.weights is None else call.weights.float()
            seen = Seen(logits[:, :-1], logits[:, -1], tuple(groups))
            sums, gradient, target_gradient = compare(seen, support, call.objective, weights)
        lses = torch.stack([group.lse for group in groups])
        ctx.save_for_backward(hidden, weight, bias, local, logits, lses, gradient, target_gradient)
        return sums

    def gradients(self, ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """See LossByHand."""
        hidden, weight, bias, local, logits, lses, gradient, target_gradient = ctx.saved_tensors
        call, scale = self.call, d_loss.float()
        inputs, head = self._inputs(ctx, hidden, weight, bias)
        count = local.shape[1] - 1
        coefficients = gradient[:, count:].T * scale
        # What the dense pass gives named classes, which are none of its group, is taken back.
        dense = gradient[:, count : count + 1] * (logits[:, :count] - lses[0][:, None]).clamp(max=0.0).exp()
        factors = torch.cat([gradient[:, :count] - dense, target_gradient[:, None]], 1) * scale
        factors *= call.rules.slope(logits)
        found = _gradients(ctx, hidden, weight, bias)
        if found.hidden is not None:
            found.hidden.copy_(weighted_rows(head.weight, local, factors))
        entries = entries_by_class(local, factors, len(weight))
        limit = _limit(call, scale, len(hidden))
        for span, lse, coefficient in zip(ctx.spans, lses, coefficients, strict=True):
            add_group(inputs, head, span, lse, coefficient.contiguous(), limit, entries, found)
        d_hidden = None if found.hidden is None else call.shard.summed(found.hidden).to(hidden.dtype)
        return d_hidden, found.head, found.bias

    def _inputs(self, ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Head]:
        """As kernels want them."""
        rules = self.call.rules
        head = Head(weight.to(ctx.dtype).contiguous(), None if bias is None else bias.contiguous(), rules)
        return hidden.to(ctx.dtype).contiguous(), head


def _gradients(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Gradients:
    """Room for the gradients that are needed; zeros where no class of this head's counts."""
    needs, end = ctx.needs, max(span[1] for span in ctx.spans)
    found = Gradients(
        torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device) if needs[0] else None,
        torch.empty(weight.shape, dtype=grad_dtype(weight), device=weight.device) if needs[1] else None,
        torch.empty(bias.shape, dtype=grad_dtype(bias), device=bias.device) if bias is not None and needs[2] else None,
    )
    for gradient in (found.head, found.bias):
        if gradient is not None:
            gradient[end:] = 0
    return found


def _limit(call: Call, scale: Tensor, tokens: int) -> Tensor | None:
    """Below what share of a token's weight a gradient is left out [T]; None: nothing is."""
    if call.gradient_filter == 0:
        return None
    weights = scale.new_ones(tokens) if call.weights is None else call.weights.float().abs()
    return weights * scale.abs() * call.gradient_filter
