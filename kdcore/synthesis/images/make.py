"""Make the images of a unit by the method of a recipe."""

import torch
from torch import nn

from kdcore.config.synthesis.images import (
    CmiConfig,
    DaflConfig,
    DeepInversionConfig,
    DfqConfig,
    FastMetaConfig,
    ImageSynthesis,
    ImpressionsConfig,
    NayerConfig,
    PatchSimilarityConfig,
    TransferConfig,
    ZsktConfig,
)
from kdcore.errors import ConfigError
from kdcore.synthesis.images.cmi import ContrastiveInversion
from kdcore.synthesis.images.deep_inversion import DeepInversion
from kdcore.synthesis.images.fast_meta import FastMeta
from kdcore.synthesis.images.game import GeneratorGame
from kdcore.synthesis.images.impressions import Impressions
from kdcore.synthesis.images.nayer import Nayer
from kdcore.synthesis.images.patch_similarity import PatchSimilarity
from kdcore.synthesis.images.pixels import OnStep, PixelSpace, SynthesisedImages
from kdcore.synthesis.images.shadow import ShadowStudent
from kdcore.synthesis.images.statistics import Inside
from kdcore.synthesis.images.transfer import Found, Transfer

__all__ = ["check_networks", "make_images"]


def make_images(
    teacher: nn.Module,
    student: nn.Module | None,
    settings: ImageSynthesis,
    space: PixelSpace,
    num_classes: int,
    *,
    wanted: int,
    seed: int,
    on_step: OnStep = lambda have, losses: None,
    found: Found | None = None,
) -> SynthesisedImages:
    """`wanted` images that depend on nothing but the arguments: torch's own generator is left as it was.

    `teacher`: frozen, in eval mode. `student`: for methods that need one; it is trained on the way. `found`: unrelated
    images, for `transfer`. Raises ConfigError for a teacher that the method cannot ask, LabelError when it diverges.
    """
    if settings.needs_student and student is None:
        raise ConfigError("synthesis.adversarial above 0 needs a student to disagree with: add `student` to the recipe")
    devices = [teacher_device] if (teacher_device := next(teacher.parameters()).device).type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return _method(teacher, student, settings, space, num_classes, found).run(wanted, on_step)


def check_networks(teacher: nn.Module, student: nn.Module | None, settings: ImageSynthesis, space: PixelSpace) -> None:
    """ConfigError where a method asks for layers, or statistics of layers, that teacher or student do not have."""
    asked = {"statistics": "batch_norm", "layer_norms": "layer_norm"}
    Inside(teacher, **{name: getattr(settings, weight, 0) > 0 for name, weight in asked.items()})
    if student is not None:
        ShadowStudent(student, teacher, settings, space)


def _method(
    teacher: nn.Module,
    student: nn.Module | None,
    settings: ImageSynthesis,
    space: PixelSpace,
    num_classes: int,
    found: Found | None,
) -> ContrastiveInversion | DeepInversion | FastMeta | GeneratorGame | Impressions | Nayer | PatchSimilarity | Transfer:
    rival = student if settings.needs_student else None
    match settings:
        case DeepInversionConfig():
            return DeepInversion(teacher, rival, settings, space, num_classes)
        case PatchSimilarityConfig():
            return PatchSimilarity(teacher, rival, settings, space, num_classes)
        case ImpressionsConfig():
            return Impressions(teacher, rival, settings, space, num_classes)
        case CmiConfig():
            return ContrastiveInversion(teacher, rival, settings, space, num_classes)
        case FastMetaConfig():
            return FastMeta(teacher, rival, settings, space, num_classes)
        case NayerConfig():
            return Nayer(teacher, rival, settings, space, num_classes)
        case DaflConfig() | ZsktConfig() | DfqConfig():
            return GeneratorGame(teacher, rival, settings, space)
        case TransferConfig():
            return Transfer(teacher, settings, space, found)
