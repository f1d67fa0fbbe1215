"""Trained models on disk: safetensors, a JSON configuration and a model card; and back again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.config.models import ImageClassifierConfig
from kdcore.errors import ConfigError, missing_extra
from kdcore.models.image import load_image_model, save_image_model
from kdcore.models.text_classifier import TokenClassifier
from kdcore.students.build import is_exported_image_model

if TYPE_CHECKING:
    from torch import nn

_ADAPTER = "adapter"


def export_student(
    model: nn.Module,
    directory: Path,
    *,
    tokenizer: Any = None,
    image_config: ImageClassifierConfig | None = None,
    num_classes: int = 0,
    in_channels: int = 0,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model that `load_student` (and, for text, `from_pretrained`) opens; returns `directory`.

    Text models go with their `tokenizer`, image models with their configuration. Of a model with adapters, these go
    into the folder `adapter`, and the whole model has them merged into its weights. Files beside them stay. The model's
    own files are written aside and moved in one by one, the weights last.
    """
    aside = directory.parent / f".partial-export-{directory.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    if isinstance(model, TokenClassifier):
        model = model.model
    if image_config is None:
        _write_text(model, tokenizer, aside)
    else:
        save_image_model(model, image_config, num_classes, in_channels, aside)
    (aside / "README.md").write_text(_card(directory.name, _task(model, image_config is not None), dict(card or {})))
    directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory / _ADAPTER, ignore_errors=True)  # a folder is not replaced by one
    for path in sorted(aside.iterdir(), key=lambda path: path.suffix == ".safetensors"):
        path.replace(directory / path.name)
    aside.rmdir()
    return directory


def load_student(directory: Path) -> nn.Module:
    """An exported model in float32 and eval mode; ConfigError when `directory` holds none."""
    if is_exported_image_model(directory):
        return load_image_model(directory).eval()
    if not (directory / "config.json").exists():
        raise ConfigError(f"'{directory}' holds no exported model: neither config.json nor model.json; train it first")
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    except ImportError as error:
        raise missing_extra("transformers", "text", "Loading a model of texts") from error
    architectures = AutoConfig.from_pretrained(directory).architectures or []
    classifies = any(name.endswith("ForSequenceClassification") for name in architectures)
    auto = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    return auto.from_pretrained(directory, dtype=torch.float32, use_safetensors=True).eval()


def _write_text(model: Any, tokenizer: Any, directory: Path) -> None:
    if hasattr(model, "merge_and_unload"):  # peft's wrapper
        model.save_pretrained(directory / _ADAPTER)
        model = model.merge_and_unload()
    model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)


def _task(model: nn.Module, images: bool) -> str:
    if images:
        return "image-classification"
    return "text-classification" if type(model).__name__.endswith("ForSequenceClassification") else "text-generation"


def _card(name: str, task: str, info: dict[str, Any]) -> str:
    library = "kdcore" if task.startswith("image") else "transformers"
    head = f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags: [distillation]\n---\n"
    rows = "".join(f"| {key} | {value} |\n" for key, value in info.items())
    return f"{head}\n# {name}\n\nTrained with kdcore.\n\n| | |\n|---|---|\n{rows}"
