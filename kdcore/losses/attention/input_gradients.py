"""Gradients by the pixels of both networks, for losses that compare them."""

from abc import abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from kdcore.config.losses.base import LossTerm
from kdcore.losses.method import LossInputs, Method
from kdcore.losses.numerics import wide

__all__ = ["InputGradientMethod", "input_gradient"]

TermT = TypeVar("TermT", bound=LossTerm)


def input_gradient(scores: Tensor, pixels: Tensor, differentiable: bool) -> Tensor:
    """d score_i / d pixels_i, [B, P] for scores [B] and pixels [B, ...]; zeros where the scores do not depend on them.

    `differentiable`: with a gradient of its own, for the student. Batch normalisation in training mode mixes samples.
    """
    (found,) = torch.autograd.grad(
        scores.sum(), pixels, create_graph=differentiable, retain_graph=differentiable, materialize_grads=True
    )
    return wide(found).flatten(1)


class InputGradientMethod(Method[TermT]):
    """A loss of the gradients of a score of each sample by its pixels; the teacher runs once more for its own."""

    needs_input_gradient: ClassVar[bool] = True
    needs_live_teacher: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """The loss of both gradients."""
        assert inputs.pixels is not None
        assert inputs.teacher_model is not None
        with torch.enable_grad():
            first = next(inputs.teacher_model.parameters())
            seen = inputs.pixels.detach().to(first.device, first.dtype).requires_grad_()
            logits = inputs.teacher_model(seen)
            targets = inputs.targets.to(logits.device)
            theirs = input_gradient(self.scores(logits, logits, targets), seen, differentiable=False)
        known = logits.detach().to(inputs.student_logits.device)
        ours = input_gradient(
            self.scores(inputs.student_logits, known, inputs.targets), inputs.pixels, differentiable=True
        )
        return self.compare(ours, theirs.to(ours))

    @abstractmethod
    def scores(self, logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        """Of each sample [B], from either network's logits [B, C]."""

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, a scalar, of gradients [B, P]."""
