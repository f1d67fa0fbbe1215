"""The losses of a recipe built as training builds them, before anything is labelled or trained."""

import torch
from torch import Tensor, nn

from kdcore.config import Recipe
from kdcore.labels.feature import FeatureCodec, ShapedLayers
from kdcore.labels.moments import layer_moments
from kdcore.labels.soft_labels import FeatureLabels
from kdcore.losses.compose import teacher_paths
from kdcore.training.composition import compose
from kdcore.training.teacher_side import LiveTeacher, NoTeacher, StoredTeacher, TeacherSide

__all__ = ["rehearse_losses"]


def rehearse_losses(
    recipe: Recipe, student: nn.Module, teacher: nn.Module | None, example: Tensor, num_classes: int, live: bool
) -> None:
    """Raise what `compose` does for the student's losses: modules that are not there, shapes that do not suit.

    `example` [1, ...] is what both networks take; neither needs its weights. `live`: the teacher runs beside the
    student; else its features are those of a store to come, of texts the first token's.
    """
    terms = () if recipe.training is None else recipe.training.losses
    if not terms:
        return
    side: TeacherSide = NoTeacher()
    if teacher is not None:
        paths = teacher_paths(terms)
        side = LiveTeacher(teacher, paths)
        if not live:
            codec = FeatureCodec.of_shapes(_stored(side.shapes(example), example))
            # Statistics to come, of as many channels.
            nothing = FeatureLabels(torch.zeros(1, codec.width), codec.layers)
            side = StoredTeacher(codec, paths, layer_moments(nothing, codec.shape_of()))
    compose(student, terms, side, example, num_classes, num_samples=1)


def _stored(shapes: dict[str, tuple[int, ...]], example: Tensor) -> ShapedLayers:
    of_texts = not example.is_floating_point()
    return tuple((path, shape[-1:] if of_texts and len(shape) == 2 else shape) for path, shape in shapes.items())
