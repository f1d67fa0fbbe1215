"""Students (and teachers that are trained on the spot) from their configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.config.models import CausalLMConfig, ImageClassifierConfig, TeacherEndpointConfig
from kdcore.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def tokenizer_path(
    student: CausalLMConfig, teacher: CausalLMConfig | TeacherEndpointConfig | None
) -> tuple[str, str | None]:
    """Directory or hub name, and revision, of the student's tokenizer: `tokenizer`, else `path`, else the teacher's.

    Raises ConfigError when the recipe names none.
    """
    if student.tokenizer is not None:
        return student.tokenizer, None
    if student.path is not None:
        return student.path, student.revision
    if isinstance(teacher, TeacherEndpointConfig):
        return teacher.tokenizer, None
    if teacher is None or not (teacher.tokenizer or teacher.path):
        raise ConfigError(
            "a student made from `architecture` needs a tokenizer; set student.tokenizer to its directory"
        )
    return (teacher.tokenizer, None) if teacher.tokenizer else (str(teacher.path), teacher.revision)


def build_text_student(config: CausalLMConfig, tokenizer: Any) -> nn.Module:
    """A causal LM in float32, initialised from the torch seed or loaded from safetensors."""
    from kdcore.models.causal_lm import build_causal_lm

    return build_causal_lm(config, tokenizer).float()


def build_image_student(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    """An image classifier in float32: pixels [B, C, H, W] to logits [B, num_classes]."""
    from kdcore.models.image import build_image_model

    return build_image_model(config, num_classes, in_channels).float()


def is_exported_image_model(directory: Path) -> bool:
    """Whether `export_student` wrote an image classifier there."""
    return (directory / "model.json").exists()
