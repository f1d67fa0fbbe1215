"""A student's log-probabilities of the tokens of its text, from hidden states, without a [tokens, vocabulary] tensor.

Logits are made for a chunk of tokens at a time, and again in the backward pass. With p the softmax of the logits z and
B the classes that end what was written,

    d log p_target / d z_j = [j is the target] - p_j,    d log sum_B p / d z_j = [j in B] p_j / sum_B p - p_j.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.config.loss import ChunkTokens
from kdcore.losses.sparse.call import compute_dtype
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.implementation import chunk_size
from kdcore.losses.sparse.products import Gradients, wide_product, wide_type

__all__ = ["Path", "path_log_probs"]


class Path(NamedTuple):
    """Of N tokens, float32 (float64) [N]: the log-probability of each, that one of the boundary classes comes in its
    place, and, without a gradient, the entropy there in nats."""

    log_probs: Tensor
    boundary_log_probs: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class _Call:
    targets: Tensor
    boundary_ids: Tensor
    rules: LogitRules
    num_outputs: int
    chunk_tokens: int

    def parts(self) -> list[slice]:
        count = len(self.targets)
        return [slice(first, min(first + self.chunk_tokens, count)) for first in range(0, count, self.chunk_tokens)]


def path_log_probs(
    hidden_states: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    boundary_ids: Tensor,
    *,
    head_bias: Tensor | None = None,
    rules: LogitRules | None = None,
    num_classes: int | None = None,
    chunk_tokens: ChunkTokens = "auto",
) -> Path:
    """Of `hidden_states` [N, D], a head [V, D] (bias [V]), `targets` int64 [N] and `boundary_ids` int64 [B].

    `rules` and `num_classes` as in distillation_loss_from_hidden; products run in the autocast type, the rest in
    float32 (float64 for float64 inputs).
    """
    outputs = min(num_classes or len(head_weight), len(head_weight))
    size = chunk_size(chunk_tokens, hidden_states, head_weight, fused=False)
    call = _Call(targets, boundary_ids[boundary_ids < outputs], rules or LogitRules(), outputs, size)
    return Path(*_PathLogProbs.apply(hidden_states, head_weight, head_bias, call))  # pyright: ignore[reportGeneralTypeIssues]


def _logits(call: _Call, inputs: Tensor, matrix: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    outputs = wide_product(inputs, matrix.T, wide)
    return call.rules.apply(outputs if bias is None else outputs.add_(bias))


class _PathLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, call: _Call
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = compute_dtype(hidden)
        ctx.call, ctx.dtype, ctx.needs = call, dtype, ctx.needs_input_grad[:3]
        ctx.save_for_backward(hidden, head, bias)
        wide = wide_type(dtype)
        found = torch.empty(3, len(hidden), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(dtype), head[: call.num_outputs].to(dtype)
            for part in call.parts():
                logits = _logits(call, inputs[part], matrix, None if bias is None else bias[: call.num_outputs], wide)
                total = logits.logsumexp(1)
                found[0, part] = logits.gather(1, call.targets[part, None]).squeeze(1) - total
                found[1, part] = logits[:, call.boundary_ids].logsumexp(1) - total
                shares = (logits - total[:, None]).exp_()
                found[2, part] = total - torch.linalg.vecdot(shares, logits)
        own, boundary, entropy = found.unbind()
        ctx.mark_non_differentiable(entropy)
        return own, boundary, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (hidden, head, bias), call = ctx.saved_tensors, ctx.call
        wide = wide_type(ctx.dtype)
        grads = Gradients.zeros(hidden, head, bias, ctx.needs, wide)
        own, boundary = (grad.to(wide) for grad in grad_outputs[:2])
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(ctx.dtype), head[: call.num_outputs].to(ctx.dtype)
            for part in call.parts():
                logits = _logits(call, inputs[part], matrix, None if bias is None else bias[: call.num_outputs], wide)
                slope = call.rules.slope(logits)
                inside = logits[:, call.boundary_ids].softmax(1)
                gradient = logits.softmax(1).mul_(-(own[part] + boundary[part])[:, None])
                gradient.scatter_add_(1, call.targets[part, None], own[part, None])
                gradient.index_add_(1, call.boundary_ids, inside * boundary[part, None])
                grads.add(part, gradient * slope, inputs[part], matrix)
        return grads.hidden, grads.head, grads.bias, None
