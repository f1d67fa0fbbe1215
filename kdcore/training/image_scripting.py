"""Losses of a recipe for image loops of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from kdcore.config.explain import explain
from kdcore.config.losses import AnyLossTerm, LossTerm
from kdcore.config.losses.base import FeatureTerm
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.compose import teacher_paths
from kdcore.losses.objective import kind_of_labels
from kdcore.losses.registry import method_class
from kdcore.taps import WHOLE, Taps, feature_shapes
from kdcore.training.batches import ImageBatch
from kdcore.training.composition import Composition, compose
from kdcore.training.teacher_side import LiveTeacher, StoredTeacher, TeacherSide

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

        ConfigError where there is neither a teacher nor `labels` that a loss can take.
        """
        if self._composition.teacher.model is None:
            _check_labels(self.losses.terms, labels)
        total, sums = self._composition.loss(ImageBatch(pixels, targets, labels, indices=indices), progress)
        self._composition.memories.forget()
        return total / len(targets), {name: value / len(targets) for name, value in sums.items() if name != "tokens"}


def compose_losses(
    terms: Sequence[Mapping[str, Any]],
    student: nn.Module,
    teacher: nn.Module | None,
    example_pixels: Tensor,
    *,
    num_samples: int | None = None,
) -> ComposedLosses:
    """Losses as `training.losses` of a recipe has them (docs/losses.md), for any two networks.

    Each takes pixels [B, C, H, W] to logits [B, classes]. `teacher` is frozen and put into eval mode. One pass over the
    first of `example_pixels` [B, C, H, W] tells the shapes of features. `num_samples` is the size of the training set,
    for losses that remember each sample. Give the parameters of both to the optimizer:
    `[*student.parameters(), *losses.parameters()]`.

    Raises ConfigError for a setting that is none, for a module path that a network does not have, and for a loss that
    needs what is not given.
    """
    checked = _checked(terms)
    side = _side(checked, teacher)
    first = example_pixels[:1]
    classes = feature_shapes(student, Taps(student, (WHOLE,)), first)[WHOLE][0]
    composition = compose(student, checked, side, first, classes, num_samples or 0)
    if num_samples is None and composition.losses.memories():
        raise ConfigError("a loss remembers each image of the training set: set `num_samples` to how many there are")
    return ComposedLosses(composition).to(first.device)


def _side(terms: Sequence[LossTerm], teacher: nn.Module | None) -> TeacherSide:
    if teacher is not None:
        return LiveTeacher(teacher, teacher_paths(terms))
    for term in terms:
        if isinstance(term, FeatureTerm) or method_class(term).needs_live_teacher:
            raise ConfigError(
                f"the loss '{term.label}' looks into the teacher, and `teacher` is None: give the network"
            )
    return StoredTeacher(None, {})


def _check_labels(terms: Sequence[LossTerm], labels: SoftLabels | None) -> None:
    for term in terms:
        method = method_class(term)
        if method.needs_raw_logits(term):
            raise ConfigError(
                f"the loss '{term.label}' needs logits as the network gives them, and labels are log-probabilities: "
                "give compose_losses the teacher, or the loss `standardise: true`"
            )
        if not method.needs_teacher_logits or isinstance(labels, DenseLabels):
            continue
        kind = None if labels is None else kind_of_labels(labels)
        if kind is None or not method.takes_labels(term, kind):
            raise ConfigError(
                f"the loss '{term.label}' needs the teacher's logits, and there is no teacher: pass `labels` of all "
                f"classes (DenseLabels), not {type(labels).__name__}, or give compose_losses the network"
            )


def _checked(terms: Sequence[Mapping[str, Any]]) -> Sequence[LossTerm]:
    given = [dict(term) for term in terms]
    try:
        return TypeAdapter(list[AnyLossTerm]).validate_python(given)
    except ValidationError as error:
        place = ("training", "losses")
        found = explain(error, {place[0]: {place[1]: given}}, place)
        raise ConfigError(f"losses are those of training.losses in a recipe: {found}") from error
