"""Class attention transfer: where in the picture each class is seen.

Guo et al., "Class Attention Transfer Based Knowledge Distillation" (arXiv 2304.12777), as in the authors' code: class
activation maps are what a head's weights, without its bias, make of the last maps; they are averaged to a small
resolution and brought to length one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.feature_later import ClassAttentionTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import unit, wide

__all__ = ["ClassAttention", "class_attention", "class_maps"]


def class_maps(maps: Tensor, weight: Tensor) -> Tensor:
    """Activation maps [B, K, H, W] of K classes: maps [B, C, H, W] through a head's weight [K, C] at every place."""
    return torch.einsum("bchw,kc->bkhw", wide(maps), weight.to(wide(maps).dtype))


def class_attention(student: Tensor, teacher: Tensor, resolution: int = 2, normalise: bool = True) -> Tensor:
    """Mean squared difference of class maps [B, K, H, W], averaged to `resolution` squared, each of length one."""
    pooled = [functional.adaptive_avg_pool2d(wide(maps), resolution).flatten(2) for maps in (student, teacher)]
    ours, theirs = map(unit, pooled) if normalise else pooled
    return (ours - theirs).square().mean()


def _head(model: nn.Module | None, path: str, whose: str) -> Tensor:
    """The weight [K, C] of a linear layer; ConfigError where it is none, or the model is not there."""
    if model is None:
        raise ConfigError(
            f"cat_kd takes the {whose}'s class maps from the weight of its layer '{path}', but the {whose} is not "
            "live: tap a layer that gives one map a class, and leave the head unset"
        )
    weight = getattr(model.get_submodule(path), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or weight.shape[2:].numel() != 1:
        raise ConfigError(f"the {whose}'s head of cat_kd must be a linear layer or a 1 x 1 convolution, got '{path}'")
    return weight.flatten(1)


class ClassAttention(MapMethod[ClassAttentionTerm]):
    """The last maps of both networks, through their heads where the recipe names them."""

    head: Tensor | None

    def __init__(self, term: ClassAttentionTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        named = term.teacher_head is not None
        found = _head(shapes.teacher_model, term.teacher_head or "", "teacher").detach().clone() if named else None
        self.register_buffer("head", found)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        if self.term.head is not None:
            student = class_maps(student, _head(inputs.student_model, self.term.head, "student"))
        if self.head is not None:
            teacher = class_maps(teacher, self.head)
        if student.shape[1] != teacher.shape[1]:
            raise ConfigError(
                f"cat_kd compares one map a class, got {student.shape[1]} of the student and {teacher.shape[1]} of the "
                "teacher: set `head` and `teacher_head` to the linear layers that follow the pooling"
            )
        return class_attention(student, teacher, self.term.resolution, self.term.normalise)
