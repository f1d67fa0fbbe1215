"""Losses whose gradient is made by hand, as autograd sees them: a sum and its by-products."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcore.losses.objective import METRICS

__all__ = ["LossByHand", "summed"]


class LossByHand(ABC):
    """What a loss makes of tensors, and of the gradient that comes back; `ctx` is autograd's, the same in both."""

    @abstractmethod
    def sums(self, ctx: Any, tensors: Sequence[Any]) -> Tensor:
        """[loss, *METRICS], in float32 or float64. Saves in `ctx` what `gradients` takes.

        `ctx.needs_input_grad` has an entry for each of `tensors`, which are Tensor or None, and one more.
        """

    @abstractmethod
    def gradients(self, ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        """One for each of the tensors, of `d_loss` (a scalar) x loss; None where none is needed."""


def summed(loss: LossByHand, *tensors: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    """The scalar sum, and detached sums by name: METRICS."""
    total, metrics = _Function.apply(*tensors, loss)  # pyright: ignore[reportGeneralTypeIssues]
    return total, dict(zip(METRICS, metrics.unbind(), strict=True))


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> tuple[Tensor, Tensor]:
        *tensors, ctx.loss = given
        sums = ctx.loss.sums(ctx, tensors)
        metrics = sums[1:]
        ctx.mark_non_differentiable(metrics)
        return sums[0].clone(), metrics

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's decorator hides the names
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        return (*ctx.loss.gradients(ctx, grad_outputs[0]), None)
