"""Cross-entropy and KL from hidden states and the head, without a [tokens, vocabulary] tensor of the whole batch.

With p the student's and t the teacher's distribution over the K stored classes and one tail cell,

    KL = sum_k t_k (ln t_k - ln p_k) + t_tail (ln t_tail - ln P_tail),     P_tail = 1 - sum_k p_k,
    d KL / d logit_j = p_j - t_j                        for a stored class,
                       p_j - t_tail softmax_tail(j)     for a class of the tail.

Labels of a few weighted classes w (codecs `threshold`, `sampled`) have no tail: d / d logit_j = m p_j - w_j with m
their sum, which is the whole teacher's gradient in the mean.

Gradients are made in the forward pass, a chunk of tokens at a time, so that logits never outlive their chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.cells import METRICS, check_fit, chunk_loss


def distillation_loss_from_hidden(
    hidden_states: Tensor,
    head_weight: Tensor,
    labels: SoftLabels | None,
    targets: Tensor,
    *,
    hard_weight: float,
    head_bias: Tensor | None = None,
    chunk_tokens: int = 1024,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over N tokens of (1 - hard_weight) KL(teacher || student) + hard_weight cross-entropy(target).

    `hidden_states` [N, D] float, `head_weight` [V, D], `head_bias` [V] or None, `targets` [N] int64, `weights` [N]
    float or None (all ones). Without `labels` the loss is the cross-entropy alone. Matrix products run in the
    autocast type, else in the type of `hidden_states`; the rest in float32 (float64 for float64 inputs).

    Returns the scalar sum and detached sums `kl`, `cross_entropy`, `agreement` (student's best class is the teacher's)
    and `tokens`. Raises LabelError when labels and tokens, or labels and vocabulary, do not fit together.
    """
    check_fit(labels, targets, hidden_states.shape[0], head_weight.shape[0])
    loss, metrics = _ChunkedLoss.apply(
        hidden_states, head_weight, head_bias, labels, targets, weights, float(hard_weight), chunk_tokens
    )  # pyright: ignore[reportGeneralTypeIssues]
    return loss, dict(zip(METRICS, metrics.unbind(), strict=True))


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    if hidden.dtype != torch.float64 and torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    return hidden.dtype


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        labels: SoftLabels | None,
        targets: Tensor,
        weights: Tensor | None,
        hard_weight: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = _compute_dtype(hidden)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        needs = ctx.needs_input_grad[:3]
        sums = torch.zeros(1 + len(METRICS), dtype=wide, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            inputs, matrix = hidden.to(dtype), head.to(dtype)
            grads = _empty_gradients(hidden, head, bias, needs, wide)
            for start in range(0, hidden.shape[0], chunk_tokens):
                part = slice(start, min(start + chunk_tokens, hidden.shape[0]))
                logits = (inputs[part] @ matrix.T).to(wide)
                if bias is not None:
                    logits += bias
                chunk_labels = None if labels is None else labels.index(part)
                weight = None if weights is None else weights[part].to(wide)
                chunk_sums, d_logits = chunk_loss(logits, chunk_labels, targets[part], weight, hard_weight, any(needs))
                sums += chunk_sums
                if d_logits is not None:
                    _add_gradients(grads, part, d_logits, inputs[part], matrix)
        ctx.save_for_backward(*grads)
        metrics = sums[1:]
        ctx.mark_non_differentiable(metrics)
        return sums[0].clone(), metrics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        d_loss = grad_outputs[0]  # metrics have no gradient
        scaled = [None if grad is None else grad * d_loss.to(grad.dtype) for grad in ctx.saved_tensors]
        return (*scaled, None, None, None, None, None)


def _empty_gradients(
    hidden: Tensor, head: Tensor, bias: Tensor | None, needs: tuple[bool, ...], wide: torch.dtype
) -> list[Tensor | None]:
    """d_hidden in the type of `hidden`; d_head and d_bias wide, since they are summed over chunks."""
    return [
        torch.zeros_like(hidden) if needs[0] else None,
        torch.zeros(head.shape, dtype=wide, device=head.device) if needs[1] else None,
        torch.zeros(bias.shape, dtype=wide, device=bias.device) if bias is not None and needs[2] else None,
    ]


def _add_gradients(grads: list[Tensor | None], part: slice, d_logits: Tensor, inputs: Tensor, matrix: Tensor) -> None:
    d_hidden, d_head, d_bias = grads
    narrow = d_logits.to(inputs.dtype)
    if d_hidden is not None:
        d_hidden[part] = narrow @ matrix
    if d_head is not None:
        d_head += narrow.T @ inputs
    if d_bias is not None:
        d_bias += d_logits.sum(0)


def distillation_loss_from_logits(
    logits: Tensor, labels: SoftLabels | None, targets: Tensor, *, hard_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same loss where the logits [N, C] exist already (images); same returns and errors."""
    check_fit(labels, targets, *logits.shape)
    loss, metrics = _LogitsLoss.apply(logits, labels, targets, float(hard_weight))  # pyright: ignore
    return loss, dict(zip(METRICS, metrics.unbind(), strict=True))


class _LogitsLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: SoftLabels | None, targets: Tensor, hard_weight: float
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(logits.device.type, enabled=False):
            sums, gradient = chunk_loss(logits.clone(), labels, targets, None, hard_weight, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        metrics = sums[1:]
        ctx.mark_non_differentiable(metrics)
        return sums[0].clone(), metrics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * grad_outputs[0], None, None, None
