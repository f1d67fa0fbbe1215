"""The response loss on logits that exist anyway: images, small numbers of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.by_hand import LossByHand, summed
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
    return summed(_OfLogits(labels, targets, objective), student_logits)


@dataclass(frozen=True)
class _OfLogits(LossByHand):
    labels: SoftLabels | None
    targets: Tensor
    objective: Objective

    def sums(self, ctx: Any, tensors: Sequence[Any]) -> Tensor:
        """See LossByHand."""
        logits: Tensor = tensors[0]
        wide = torch.promote_types(logits.dtype, torch.float32)
        sums, gradient = logits.new_zeros(1 + len(METRICS), dtype=wide), torch.zeros_like(logits)
        tail, room = self.objective.tail, max(1, len(logits))
        with torch.autocast(logits.device.type, enabled=False):
            # One chunk, or none where there is no sample.
            for _, compared in chunks(self.labels, self.targets, tail, logits.shape[1], room):
                owned = logits.to(wide, copy=True)
                sums, found = chunk_loss(owned, compared, self.targets, None, self.objective, ctx.needs_input_grad[0])
                gradient = gradient if found is None else found
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return sums

    def gradients(self, ctx: Any, d_loss: Tensor) -> tuple[Tensor]:
        """See LossByHand."""
        (gradient,) = ctx.saved_tensors
        return ((gradient * d_loss).to(ctx.dtype),)
