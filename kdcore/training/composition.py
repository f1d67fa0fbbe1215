"""The losses of a recipe at work: a student with taps, the teacher's side, and the sum."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdcore.config.losses import LossTerm
from kdcore.errors import ConfigError
from kdcore.losses.compose import LOSSES, ComposedLoss, student_paths
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.objective import METRICS
from kdcore.losses.registry import method_class
from kdcore.losses.response.mixed_targets import partner_excess
from kdcore.losses.response.soft_targets import soft_target_loss
from kdcore.taps import Taps, feature_shapes
from kdcore.training.batches import ClassifiedTextBatch, ImageBatch
from kdcore.training.logits import logits_of
from kdcore.training.memories import Memories
from kdcore.training.teacher_side import TeacherSide

__all__ = ["Composition", "compose", "inputs_of"]


class Composition:
    """Runs a student up to the sum of its losses. What is trained beside the student is in `losses`."""

    def __init__(self, student: nn.Module, taps: Taps, losses: ComposedLoss, teacher: TeacherSide) -> None:
        self.losses, self.teacher = losses, teacher
        self.memories = Memories(losses)
        self.measures = (*METRICS, *losses.names)
        self._student, self._taps = student, taps
        self._by_input = any(method_class(term).needs_input_gradient for term in losses.terms)

    def loss(self, batch: ImageBatch | ClassifiedTextBatch, progress: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over N samples, and sums of `measures`, detached. ConfigError for features without gradient.

        A rank without work goes the same way as the others, since they exchange what they hold, and adds nothing.
        """
        if len(batch.targets):
            return self._loss(batch, progress)
        total, metrics = self._loss(batch.placeholder(), progress)
        self.memories.undo()
        return total * 0, {name: value * 0 for name, value in metrics.items()}

    def _loss(self, batch: ImageBatch | ClassifiedTextBatch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        given = inputs_of(batch, self._student)
        if self._by_input:
            given = given.detach().requires_grad_()
        with self._taps:
            logits = logits_of(self._student, given, "the student")
        self._check_gradients()
        answer = self.teacher.answer(batch.inputs, batch.labels)
        inputs = LossInputs(
            student_logits=logits,
            teacher_logits=answer.logits,
            targets=batch.targets,
            student=self._taps.outputs,
            teacher=answer.features,
            indices=batch.indices,
            progress=progress,
            pixels=given if isinstance(batch, ImageBatch) else None,
            mask=batch.mask,
            student_model=self._student,
            teacher_model=self.teacher.model,
            labels=answer.labels,
            partner_targets=batch.partner_targets,
            shares=batch.shares,
            each=answer.each,
        )
        if batch.indices is not None:
            self.memories.keep(batch.indices)
        total, values = self.losses(inputs)
        with torch.no_grad():
            _, metrics = soft_target_loss(logits.detach(), answer.labels, batch.targets)
            if batch.partner_targets is not None and batch.shares is not None:
                excess = partner_excess(logits.detach(), batch.targets, batch.partner_targets, batch.shares)
                metrics["cross_entropy"] = metrics["cross_entropy"] + excess
        return total, {**metrics, **values}

    def _check_gradients(self) -> None:
        if not torch.is_grad_enabled():
            return
        without = sorted(path for path, output in self._taps.outputs.items() if not output.requires_grad)
        if without:
            raise ConfigError(
                f"features of the student at {without} have no gradient, so that losses of them teach nothing: likely "
                "nothing is trained before that place, or its activations are computed again in the backward pass by a "
                "reentrant checkpoint; tap a later module, or set training.activation_checkpointing: false"
            )


def inputs_of(batch: ImageBatch | ClassifiedTextBatch, student: nn.Module) -> Tensor:
    """What the student is called with: pixels in the type of its weights, which DeepSpeed casts to bfloat16."""
    given = batch.inputs
    return given.to(next(student.parameters()).dtype) if given.is_floating_point() else given


def compose(
    student: nn.Module,
    terms: Sequence[LossTerm],
    teacher: TeacherSide,
    example: Tensor,
    num_classes: int,
    num_samples: int,
    where: str = LOSSES,
) -> Composition:
    """Losses for `student`, built for what it and the teacher make of the inputs of one sample, `example` [1, ...].

    ConfigError for a module that is not there, and for shapes that do not suit a loss, of those that a recipe lists
    `where`.
    """
    taps = Taps(student, student_paths(terms, where), "the student")
    shapes = Shapes(
        feature_shapes(student, taps, example),
        teacher.shapes(example),
        num_classes,
        num_samples,
        student,
        teacher.model,
        teacher.each,
        of_first_tokens=teacher.model is None and not example.is_floating_point(),
        moments=teacher.moments,
    )
    return Composition(student, taps, ComposedLoss(terms, shapes, where), teacher)
