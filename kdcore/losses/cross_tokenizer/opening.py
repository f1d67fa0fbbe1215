"""ULD and GOLD's hybrid from hidden states: of the tokens that begin chunks of text, the student's and the teacher's.

Logits are made for a few chunks of text at a time, with their gradient, and do not outlive it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.config.loss import ChunkTokens
from kdcore.labels.opening_labels import OpeningLabels
from kdcore.losses.cross_tokenizer.path import Path
from kdcore.losses.cross_tokenizer.sorted_distance import SharedClasses, hybrid_loss, sorted_loss
from kdcore.losses.sparse.call import compute_dtype, grad_dtype
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.implementation import chunk_size
from kdcore.losses.sparse.products import Gradients, scaled_to, wide_product, wide_type

__all__ = ["later_log_probs", "opening_loss"]


def later_log_probs(log_probs: Tensor, labels: OpeningLabels) -> Tensor:
    """The student's log-probability of each chunk's tokens but the first, [C], of those of all its tokens [N]."""
    counted = (labels.chunk >= 0).index_fill(0, labels.opening, False)
    # One more than there are, so that a batch without a chunk has its place in the graph, too.
    sums = log_probs.new_zeros(labels.num_chunks + 1)
    return sums.index_add(0, labels.chunk.clamp(min=0), log_probs.masked_fill(~counted, 0.0))[:-1]


@dataclass(frozen=True)
class _Call:
    labels: OpeningLabels
    shared: SharedClasses
    beta: float | None
    rules: LogitRules
    num_outputs: int
    chunk_tokens: int

    def loss(self, logits: Tensor, part: slice, scale: Tensor) -> Tensor:
        labels = self.labels.labels.index(part)
        if self.beta is None:
            return sorted_loss(logits, labels)
        theirs = self.labels.rest_log_probs[part].exp().to(scale.dtype)
        return hybrid_loss(logits, labels, self.shared, self.beta, scale, theirs)


def opening_loss(
    hidden_states: Tensor,
    head_weight: Tensor,
    path: Path,
    labels: OpeningLabels,
    *,
    beta: float | None = None,
    head_bias: Tensor | None = None,
    rules: LogitRules | None = None,
    num_classes: int | None = None,
    chunk_tokens: ChunkTokens = "auto",
) -> Tensor:
    """Sum over the chunks of `labels`: `sorted_loss` of the tokens that begin them, or with `beta` `hybrid_loss`.

    The hybrid multiplies either side by the probability of the chunk's later tokens, the student's from `path`; ULD
    knows of no chunks. Of `hidden_states` [N, D], a head [V, D] (bias [V]) and what `path_log_probs` gives of the same;
    the other arguments as there. A head that is used here is used a second time.
    """
    outputs = min(num_classes or len(head_weight), len(head_weight))
    student_of = labels.student_of
    shared = SharedClasses(student_of.masked_fill(student_of >= outputs, -1))
    size = chunk_size(chunk_tokens, hidden_states, head_weight, fused=False)
    call = _Call(labels, shared, beta, rules or LogitRules(), outputs, size)
    scale = later_log_probs(path.log_probs, labels).exp()
    hidden = hidden_states[labels.opening]
    return _OpeningLoss.apply(hidden, head_weight, head_bias, scale, call)  # pyright: ignore[reportReturnType]


class _OpeningLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, scale: Tensor, call: _Call) -> Tensor:
        dtype = compute_dtype(hidden)
        wide = wide_type(dtype)
        grads = Gradients.zeros(hidden, head, bias, ctx.needs_input_grad[:3], wide)
        d_scale = torch.zeros_like(scale)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(dtype), head[: call.num_outputs].to(dtype)
            offset = None if bias is None else bias[: call.num_outputs]
            for first in range(0, len(hidden), call.chunk_tokens):
                part = slice(first, min(first + call.chunk_tokens, len(hidden)))
                outputs = wide_product(inputs[part], matrix.T, wide)
                logits = call.rules.apply(outputs if offset is None else outputs.add_(offset))
                leaves = logits.detach().requires_grad_(), scale[part].detach().requires_grad_()
                with torch.enable_grad():
                    loss = call.loss(leaves[0], part, leaves[1])
                    d_logits, later = torch.autograd.grad(loss, leaves, allow_unused=True)
                total += loss.detach()
                grads.add(part, d_logits * call.rules.slope(logits), inputs[part], matrix)
                if later is not None:
                    d_scale[part] = later
        ctx.save_for_backward(grads.hidden, grads.head, grads.bias, d_scale)
        ctx.dtypes = [None if leaf is None else grad_dtype(leaf) for leaf in (hidden, head, bias, scale)]
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, d_loss: Tensor
    ) -> tuple[Tensor | None, ...]:
        both = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if grad is None else scaled_to(grad, d_loss, dtype) for grad, dtype in both), None
