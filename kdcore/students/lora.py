"""Adapters (LoRA) around a causal LM, by the package peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdcore.config.models import LoraConfig
from kdcore.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from torch import nn


def with_adapters(model: Any, config: LoraConfig) -> nn.Module:
    """`model` with its own weights frozen, and new adapters (which change nothing yet) to train.

    MissingExtra without peft; ConfigError when target_modules names no layer, or the head, whose weight the loss uses
    without its layer.
    """
    try:
        import peft
    except ImportError as error:
        raise missing_extra("peft", "lora", "student.lora") from error
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  # only divided by the rank
        lora_dropout=config.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"student.lora.target_modules {targets} does not fit the student: {error}") from error
    if hasattr(adapted.get_output_embeddings(), "lora_A") or hasattr(adapted.get_input_embeddings(), "lora_A"):
        raise ConfigError(
            f"student.lora.target_modules {targets} names the head or the embedding, which cannot have adapters here: "
            "leave it out"
        )
    return adapted
