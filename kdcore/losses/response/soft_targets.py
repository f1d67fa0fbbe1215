"""The response loss on logits that exist anyway: images, small numbers of classes."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.objective import METRICS, Objective, choose
from kdcore.losses.sparse.chunk import chunk_loss
from kdcore.losses.sparse.support import check_fit, chunks

__all__ = ["soft_target_loss"]


def soft_target_loss(
    student_logits: Tensor,
    labels: SoftLabels | None,
    targets: Tensor,
    *,
    objective: Objective | None = None,
    temperature: float | None = None,
    hard_weight: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over B samples of (1 - hard_weight) T^2 divergence(teacher_T, student_T) + hard_weight cross-entropy.

    `student_logits` [B, C] float, `targets` [B] int64. `objective` is forward KL by default; the other two override its
    own numbers. Without labels the loss is the cross-entropy. Computed in float32, or float64 for float64 logits.
    Returns the scalar sum and the same detached sums as `distillation_loss_from_hidden`, and raises as it does.
    """
    objective = choose(objective, hard_weight, temperature)
    check_fit(labels, targets, *student_logits.shape)
    if labels is not None:
        objective.check(labels)
    loss, metrics = _Loss.apply(student_logits, labels, targets, objective)  # pyright: ignore[reportGeneralTypeIssues]
    return loss, dict(zip(METRICS, metrics.unbind(), strict=True))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: SoftLabels | None, targets: Tensor, objective: Objective
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        sums, gradient = logits.new_zeros(1 + len(METRICS), dtype=wide), torch.zeros_like(logits)
        with torch.autocast(logits.device.type, enabled=False):
            # One chunk, or none where there is no sample.
            for _, compared in chunks(labels, targets, objective.tail, logits.shape[1], max(1, len(logits))):
                owned = logits.to(wide, copy=True)
                sums, found = chunk_loss(owned, compared, targets, None, objective, ctx.needs_input_grad[0])
                gradient = gradient if found is None else found
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        metrics = sums[1:]
        ctx.mark_non_differentiable(metrics)
        return sums[0].clone(), metrics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0]).to(ctx.dtype), None, None, None
