"""Students (and teachers that are trained on the spot) from their configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.config.models import (
    CausalLMConfig,
    ImageClassifierConfig,
    StudentLMConfig,
    TeacherEndpointConfig,
    TextClassifierConfig,
)
from kdcore.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def tokenizer_path(
    student: CausalLMConfig | TextClassifierConfig,
    teacher: CausalLMConfig | TextClassifierConfig | TeacherEndpointConfig | None,
) -> tuple[str, str | None]:
    """Directory or hub name, and revision, of the student's tokenizer: `tokenizer`, else `path`, else the teacher's.

    Raises ConfigError when the recipe names none.
    """
    found = student.tokenizer_source or (None if teacher is None else teacher.tokenizer_source)
    if found is None:
        raise ConfigError(
            "a student made from `architecture` needs a tokenizer; set student.tokenizer to its directory"
        )
    return found


def build_text_student(config: CausalLMConfig, tokenizer: Any) -> nn.Module:
    """A causal LM in float32, from the torch seed or from safetensors; with adapters where `config` asks for them.

    Parameters that no text reaches, such as a multimodal model's for images, are not trained.
    """
    from kdcore.models.causal_lm import build_causal_lm

    model: Any = build_causal_lm(config, tokenizer).float()
    if isinstance(config, StudentLMConfig) and config.lora is not None:
        from kdcore.students.lora import with_adapters

        model = with_adapters(model, config.lora)
    _freeze_unreached(model)
    return model


def _freeze_unreached(model: Any) -> None:
    """Ranks would wait for their gradients, and there are none."""
    parts = (model.get_input_embeddings(), model.get_decoder(), model.get_output_embeddings())
    reached = {id(value) for part in parts if part is not None for value in part.parameters()}
    for value in model.parameters():
        if id(value) not in reached:
            value.requires_grad_(False)


def build_image_student(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    """An image classifier in float32: pixels [B, C, H, W] to logits [B, num_classes]."""
    from kdcore.models.image import build_image_model

    return build_image_model(config, num_classes, in_channels).float()


def build_classified_text_student(config: TextClassifierConfig, tokenizer: Any, num_classes: int) -> nn.Module:
    """A text classifier in float32, from the torch seed or from safetensors: tokens int64 [B, 3, L] to logits."""
    from kdcore.models.text_classifier import TokenClassifier, build_text_classifier

    model = build_text_classifier(config, tokenizer, num_classes).float()
    return TokenClassifier(model, tokenizer)


def checkpoint_activations(student: nn.Module) -> None:
    """Have `student` compute its activations again in the backward pass. ConfigError when it does not know how."""
    enable = getattr(student, "gradient_checkpointing_enable", None)
    if enable is not None:
        enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return
    enable = getattr(student, "set_grad_checkpointing", None)  # timm's
    if enable is None:
        raise ConfigError(
            f"training.activation_checkpointing needs a student that knows it, of transformers or timm; "
            f"{type(student).__name__} does not: set it to false"
        )
    enable(True)


def is_exported_image_model(directory: Path) -> bool:
    """Whether `export_student` wrote an image classifier there."""
    return (directory / "model.json").exists()
