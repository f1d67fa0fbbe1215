"""Trained models on disk: safetensors, a JSON configuration and a model card; and back again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.config.models import ImageClassifierConfig
from kdcore.errors import ConfigError, missing_extra, out_of_space
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
    own files are written aside and moved in one by one, the weights last. OutOfSpace when the disk is full.
    """
    if isinstance(model, TokenClassifier):
        model = model.model
    aside = directory.parent / f".partial-export-{directory.name}"
    with _room_for(aside, model):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        if image_config is None:
            _write_text(model, tokenizer, aside)
        else:
            save_image_model(model, image_config, num_classes, in_channels, aside)
        task = _task(model, image_config is not None)
        (aside / "README.md").write_text(_card(directory.name, task, dict(card or {})))
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


@contextmanager
def _room_for(aside: Path, model: nn.Module) -> Iterator[None]:
    """Says so when the disk is full, and frees what was written."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise _out_of_space(error, aside, model) from error
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # the system's, which is in its words alone
        if number is None:
            raise
        raise _out_of_space(OSError(int(number[1]), str(error)), aside, model) from error


def _out_of_space(error: OSError, aside: Path, model: nn.Module) -> Exception:
    shutil.rmtree(aside, ignore_errors=True)
    return out_of_space(error, aside, sum(value.numel() * value.element_size() for value in model.parameters()))


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
