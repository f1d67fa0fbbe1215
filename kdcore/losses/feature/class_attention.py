"""Class attention transfer: where in the picture each class is seen.

Guo et al., "Class Attention Transfer Based Knowledge Distillation" (arXiv 2304.12777), as in the authors' code: class
activation maps are what a head's weights, without its bias, make of the last maps; they are averaged to a small
resolution and brought to length one.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdcore.config.losses.feature_later import ClassAttentionTerm
from kdcore.errors import ConfigError
from kdcore.losses.layers import head_weight
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


class ClassAttention(MapMethod[ClassAttentionTerm]):
    """The last maps of both networks, through their heads where the recipe names them."""

    head: Tensor | None

    def __init__(self, term: ClassAttentionTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.register_buffer("head", None if term.teacher_head is None else self._copied(term.teacher_head, shapes))

    @staticmethod
    def _copied(path: str, shapes: Shapes) -> Tensor:
        if shapes.teacher_model is None:
            raise ConfigError(
                f"cat_kd takes the teacher's class maps from the weight of its layer '{path}', but the teacher is not "
                "live: set training.live_teacher, or leave teacher_head out and tap a layer that gives one map a class"
            )
        return head_weight(shapes.teacher_model, path).detach().clone()

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        if self.term.head is not None:
            assert inputs.student_model is not None
            student = class_maps(student, head_weight(inputs.student_model, self.term.head))
        if self.head is not None:
            teacher = class_maps(teacher, self.head)
        if student.shape[1] != teacher.shape[1]:
            raise ConfigError(
                f"cat_kd compares one map a class, got {student.shape[1]} of the student and {teacher.shape[1]} of the "
                "teacher: set `head` and `teacher_head` to the linear layers that follow the pooling"
            )
        return class_attention(student, teacher, self.term.resolution, self.term.normalise)
