"""Losses of a recipe for image loops of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from kdcore.config.explain import explain
from kdcore.config.losses import AnyLossTerm, LossTerm
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.compose import teacher_paths
from kdcore.taps import WHOLE, Taps, feature_shapes
from kdcore.training.batches import ImageBatch
from kdcore.training.composition import Composition, compose
from kdcore.training.teacher_side import LiveTeacher, NoTeacher

__all__ = ["ComposedLosses", "compose_losses"]


class ComposedLosses(nn.Module):
    """What `compose_losses` gives: its parameters are trained with the student's, and thrown away with it."""

    def __init__(self, composition: Composition) -> None:
        super().__init__()
        self.losses = composition.losses
        self._composition = composition

    def loss(
        self,
        pixels: Tensor,
        targets: Tensor,
        labels: SoftLabels | None = None,
        *,
        indices: Tensor | None = None,
        progress: float = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over B images `pixels` [B, C, H, W] of classes `targets` int64 [B], and detached means by name.

        Runs the student, and the teacher where there is one. `labels` are stored ones, for losses of logits without a
        teacher; `indices` int64 [B] the numbers of the images in the training set, for memories; `progress` the share
        of the steps that are done. Gradients of micro-batches add up to the step's if each mean is weighed by its B.
        """
        total, sums = self._composition.loss(ImageBatch(pixels, targets, labels, indices=indices), progress)
        self._composition.memories.forget()
        return total / len(targets), {name: value / len(targets) for name, value in sums.items() if name != "tokens"}


def compose_losses(
    terms: Sequence[Mapping[str, Any]],
    student: nn.Module,
    teacher: nn.Module | None,
    example_pixels: Tensor,
    *,
    num_samples: int = 1,
) -> ComposedLosses:
    """Losses as `training.losses` of a recipe has them (docs/losses.md), for any two networks.

    Each takes pixels [B, C, H, W] to logits [B, classes]. `teacher` is frozen and put into eval mode. One pass over the
    first of `example_pixels` [B, C, H, W] tells the shapes of features. `num_samples` is the size of the training set,
    for losses that remember each sample. Give the parameters of both to the optimizer:
    `[*student.parameters(), *losses.parameters()]`.

    Raises ConfigError for a setting that is none, and for a module path that a network does not have.
    """
    checked = _checked(terms)
    side = NoTeacher() if teacher is None else LiveTeacher(teacher, teacher_paths(checked))
    first = example_pixels[:1]
    classes = feature_shapes(student, Taps(student, (WHOLE,)), first)[WHOLE][0]
    composition = compose(student, checked, side, first, classes, num_samples)
    return ComposedLosses(composition).to(first.device)


def _checked(terms: Sequence[Mapping[str, Any]]) -> Sequence[LossTerm]:
    given = [dict(term) for term in terms]
    try:
        return TypeAdapter(list[AnyLossTerm]).validate_python(given)
    except ValidationError as error:
        place = ("training", "losses")
        found = explain(error, {place[0]: {place[1]: given}}, place)
        raise ConfigError(f"losses are those of training.losses in a recipe: {found}") from error
