"""Statistics of features by adaptive instance normalisation: the teacher judges itself with the student's statistics.

Yang et al., "Knowledge Distillation via Adaptive Instance Normalization" (arXiv 2003.04289), from the survey's account
of it and the paper's abstract; the exact form is unverified. Means and deviations of channels are to be the teacher's,
and the teacher's logits are to stay when its maps get the student's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from kdcore.config.losses.feature import AdaptiveNormalisationTerm
from kdcore.errors import ConfigError
from kdcore.losses.feature.wasserstein import channel_statistics, gaussian_distance
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import project, spatial_projector
from kdcore.taps import layer_of

__all__ = ["AdaptiveNormalisation", "logits_with", "with_statistics_of"]


def with_statistics_of(student: Tensor, teacher: Tensor) -> Tensor:
    """The teacher's maps [B, C, H, W] with each channel's mean and deviation those of the student's [B, C, H', W']."""
    mean, deviation = channel_statistics(student)
    theirs, spread = channel_statistics(teacher)
    return (wide(teacher) - theirs) / spread * deviation + mean


def logits_with(teacher: nn.Module, path: str, maps: Tensor, pixels: Tensor) -> Tensor:
    """Logits [B, C] of a live teacher in which `maps` stand for what a tap at `path` finds; slopes go to these.

    The path names a module's output, or with `:input` what goes into it. In the teacher's dtype, without autocast.
    """
    name, colon, _ = path.partition(":input")
    layer = layer_of(teacher, name)
    if layer is None:
        raise ConfigError(
            f"adain replaces the output or the `:input` of a module of the teacher, which has none '{path}'"
        )
    first = next(teacher.parameters())

    def instead(layer: nn.Module, given: tuple[Any, ...], output: Any = None) -> Any:
        old = given if colon else output
        return (maps.to(first.dtype), *old[1:]) if isinstance(old, tuple) else maps.to(first.dtype)

    hook = layer.register_forward_pre_hook if colon else layer.register_forward_hook
    handle = hook(instead)
    try:
        with torch.autocast(first.device.type, enabled=False):
            output = teacher(pixels.detach().to(first.device, first.dtype))
    finally:
        handle.remove()
    return getattr(output, "logits", output)


class AdaptiveNormalisation(MapMethod[AdaptiveNormalisationTerm]):
    """A projector for each pair of layers, and the sum of their losses. One more pass of the teacher for each."""

    needs_live_teacher = True
    needs_teacher_logits = True

    def __init__(self, term: AdaptiveNormalisationTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.projectors = self.for_pairs(shapes, spatial_projector)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        if inputs.teacher_model is None or inputs.teacher_logits is None or inputs.pixels is None:
            raise ConfigError(
                "adain lets the teacher judge the student's statistics, so the teacher must be live, got one whose "
                "labels are read: leave the store out, or match statistics alone with wkd_feature and mean_ratio 1"
            )
        student = project(self.projectors[number], student)
        mixed = with_statistics_of(student, teacher)
        path = self.term.teacher_paths[number]
        judged = wide(logits_with(inputs.teacher_model, path, mixed, inputs.pixels))
        judgement = (judged - wide(inputs.teacher_logits)).square().sum(1).mean()
        statistics = gaussian_distance(student, teacher, mean_ratio=1.0)
        return self.term.statistics * statistics + self.term.judgement * judgement
