"""The loss from hidden states and the head, without a [tokens, vocabulary] tensor of the whole batch.

Logits are made for a chunk of tokens at a time and never outlive it. What is compared are cells: the classes that a
label names and one for all others (support.py), or every class (dense.py). All divergences (forms/) have one gradient
in the logits, which cells.py derives from their slopes.

Labels of a few weighted classes w (codecs `threshold`, `sampled`) name no tail: with m their sum, the gradient of KL is
m p_j - w_j, which is the whole teacher's gradient in the mean. Its value is not: it is larger by what the teacher's
entropy exceeds that of the few weights, which no student changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.config.loss import ChunkTokens, Implementation
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.by_hand import LossByHand, summed
from kdcore.losses.objective import METRICS, Objective, choose
from kdcore.losses.sparse.call import Call, compute_dtype, grad_dtype
from kdcore.losses.sparse.chunk import chunk_loss
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.implementation import chunk_size, implementation_of
from kdcore.losses.sparse.products import Gradients, scaled_to, wide_product, wide_type
from kdcore.losses.sparse.shards import WHOLE, Shard
from kdcore.losses.sparse.support import Support, check_fit, chunks

__all__ = ["distillation_loss_from_hidden"]


def distillation_loss_from_hidden(
    hidden_states: Tensor,
    head_weight: Tensor,
    labels: SoftLabels | None,
    targets: Tensor,
    *,
    objective: Objective | None = None,
    hard_weight: float | None = None,
    head_bias: Tensor | None = None,
    rules: LogitRules | None = None,
    num_classes: int | None = None,
    weights: Tensor | None = None,
    chunk_tokens: ChunkTokens = "auto",
    recompute: bool = False,
    implementation: Implementation = "auto",
    gradient_filter: float = 0.0,
    shard: Shard = WHOLE,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over N tokens of `objective`: (1 - hard_weight) T^2 divergence + hard_weight cross-entropy(target).

    `hidden_states` [N, D] float, `head_weight` [V, D], `head_bias` [V] or None, `targets` [N] int64, `weights` [N]
    float or None (all ones). `objective` is forward KL by default, and `hard_weight` overrides its own. `rules` are
    what the model does to its head's outputs. Of the head only the first `num_classes` rows count, the others have no
    probability (default: all count). Without `labels` the loss is the cross-entropy alone.

    Matrix products run in the autocast type, else in the type of `hidden_states`; the rest in float32 (float64 for
    float64 inputs). Gradients are made in the forward pass, or with `recompute` in the backward pass from logits made
    again. The head's gradient is summed over chunks in float32 and returned so: a head in a narrower type keeps it
    where its `grad_dtype` is torch.float32.

    `implementation` "torch" goes over chunks of logits in torch, "fused" in Triton kernels on CUDA; "triton" makes
    tiles of logits in kernels, again in the backward pass, and has no use for `chunk_tokens` and `recompute`. "auto"
    takes "fused" where it can, or "triton" with a `gradient_filter`: tiles of gradients that are below so much of the
    token's weight are left out, by "triton" alone. With a `shard`, `head_weight` has the vocabulary's rows that this
    rank has, and `num_classes` says how many all have; each rank gets the whole loss and gradient of hidden states.

    Returns the scalar sum and detached sums by name: METRICS. Raises LabelError when labels and tokens, or labels and
    vocabulary, do not fit together; ConfigError when the divergence is not defined for such labels, or an
    implementation is asked for that cannot make the loss.
    """
    objective = choose(objective, hard_weight=hard_weight)
    outputs = shard.outputs(num_classes, head_weight.shape[0])
    check_fit(labels, targets, hidden_states.shape[0], outputs)
    if labels is not None:
        objective.check(labels)
        shard.check(labels)
    rules = rules or LogitRules()
    chosen = implementation_of(implementation, hidden_states, labels, gradient_filter)
    fused = chosen == "fused"
    size = chunk_size(chunk_tokens, hidden_states, head_weight, fused)
    call = Call(labels, targets, weights, objective, rules, outputs, size, recompute, gradient_filter, shard, fused)
    if chosen == "triton":
        from kdcore.losses.sparse.kernels.loss import KernelLoss

        return summed(KernelLoss(call), hidden_states, head_weight, head_bias)
    return summed(_Chunked(call), hidden_states, head_weight, head_bias)


def _run(
    call: Call,
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    grads: Gradients | None,
    scale: Tensor | None = None,
) -> Tensor:
    """Sums [loss, *METRICS]; adds the gradients, of `scale` x loss, to `grads`."""
    wide = wide_type(dtype)
    sums = torch.zeros(1 + len(METRICS), dtype=wide, device=hidden.device)
    weights = call.weights
    if scale is not None:
        weights = scale.to(wide).expand(len(hidden)) if weights is None else weights * scale
    with torch.autocast(hidden.device.type, enabled=False):
        # At least one row, so that a shard of padding alone is a matrix too.
        rows = max(1, call.shard.rows(0, call.num_outputs, len(head))[1])
        inputs, matrix = hidden.to(dtype), head[:rows].to(dtype)
        offset = None if bias is None else bias[:rows].contiguous()
        for part, compared in chunks(
            call.labels, call.targets, call.objective.tail, call.num_outputs, call.chunk_tokens
        ):
            weight = None if weights is None else weights[part].to(wide)
            outputs = wide_product(inputs[part], matrix.T, wide)
            chunk_sums, d_outputs = _of_outputs(
                outputs, offset, compared, call, part, weight, None if grads is None else dtype
            )
            sums += chunk_sums
            if grads is not None and d_outputs is not None:
                grads.add(part, d_outputs, inputs[part], matrix)
            del outputs, d_outputs  # before the next chunk has its own
        if grads is not None and grads.hidden is not None:
            call.shard.summed(grads.hidden)
    return sums


def _of_outputs(
    outputs: Tensor,
    bias: Tensor | None,
    compared: Support | DenseLabels,
    call: Call,
    part: slice,
    weights: Tensor | None,
    narrow: torch.dtype | None,
) -> tuple[Tensor, Tensor | None]:
    """Sums of one chunk, and d loss / d outputs of the head, wide or `narrow` (None: none). Overwrites `outputs`."""
    if call.fused and isinstance(compared, Support):
        from kdcore.losses.sparse.kernels.chunk import fused_chunk_loss

        return fused_chunk_loss(outputs, bias, compared, call, part, weights, narrow)
    rules, grad = call.rules, narrow is not None
    logits = rules.apply(outputs if bias is None else outputs.add_(bias))
    slope = rules.slope(logits) if grad and rules != LogitRules() else None
    sums, d_logits = chunk_loss(
        logits, compared, call.targets[part], weights, call.objective, grad, call.shard, call.num_outputs
    )
    if slope is not None and d_logits is not None:
        d_logits *= slope
    return sums, d_logits


@dataclass(frozen=True)
class _Chunked(LossByHand):
    call: Call

    def sums(self, ctx: Any, tensors: Sequence[Any]) -> Tensor:
        """See LossByHand."""
        hidden, head, bias = tensors
        dtype = compute_dtype(hidden)
        ctx.dtype, ctx.needs = dtype, ctx.needs_input_grad[:3]
        grads = None
        if any(ctx.needs) and not self.call.recompute:
            grads = Gradients.zeros(hidden, head, bias, ctx.needs, wide_type(dtype))
        sums = _run(self.call, hidden, head, bias, dtype, grads)
        if grads is None:
            ctx.save_for_backward(hidden, head, bias)
        else:
            ctx.save_for_backward(grads.hidden, grads.head, grads.bias)
            ctx.grad_dtypes = [None if leaf is None else grad_dtype(leaf) for leaf in (hidden, head, bias)]
        return sums

    def gradients(self, ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """See LossByHand."""
        if not self.call.recompute:
            return tuple(
                None if grad is None else scaled_to(grad, d_loss, dtype)
                for grad, dtype in zip(ctx.saved_tensors, ctx.grad_dtypes, strict=True)
            )
        hidden, head, bias = ctx.saved_tensors
        grads = Gradients.zeros(hidden, head, bias, ctx.needs, wide_type(ctx.dtype))
        _run(self.call, hidden, head, bias, ctx.dtype, grads, d_loss)
        return grads.hidden, grads.head, grads.bias
