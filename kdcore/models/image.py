"""Image classifiers of every source behind one call: pixels [B, C, H, W] in, logits [B, num_classes] out."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kdcore.config.models import ImageClassifierConfig
from kdcore.errors import ConfigError
from kdcore.models.image_sources import BUILDERS, TRANSFORMERS_SETTINGS, LogitsOnly

_WEIGHTS = "model.safetensors"
_DESCRIPTION = "model.json"
_NETWORK = ("source", "name", "kwargs")


def build_image_model(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    """The network that `config` describes, with the weights of `path` where it has one.

    A directory this project exported brings its own network; it must agree with what the recipe says of it.
    Raises ConfigError when the network cannot be built, or the weights do not fit it.
    """
    described = _described(config, num_classes, in_channels)
    try:
        model = BUILDERS[described.source](described, num_classes, in_channels)
    except (TypeError, ValueError, RuntimeError, KeyError, OSError, UnpicklingError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"The image classifier '{described.name}' of source '{described.source}' cannot be built with kwargs "
            f"{described.kwargs}, {num_classes} classes, {in_channels} channels: {error}. Set its name and kwargs."
        ) from error
    if config.path is not None:
        _load_weights(model, _weights_file(config.path))
    return model


def save_image_model(
    model: nn.Module, config: ImageClassifierConfig, num_classes: int, in_channels: int, directory: str | Path
) -> None:
    """Writes model.safetensors and model.json, from which `load_image_model` rebuilds the network; nothing else.

    Of a network of transformers also its settings.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / _WEIGHTS)
    if isinstance(model, LogitsOnly):
        network: Any = model.model
        network.config.to_json_file(folder / TRANSFORMERS_SETTINGS)
    described = describe_network(config, num_classes, in_channels)
    card = {"format": 1, "model": described, "num_classes": num_classes, "in_channels": in_channels}
    (folder / _DESCRIPTION).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def describe_network(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> dict[str, Any]:
    """Source, name and kwargs of the network that `build_image_model` makes, an exported directory looked into."""
    described = _described(config, num_classes, in_channels)
    return {name: getattr(described, name) for name in _NETWORK}


def load_image_model(directory: str | Path) -> nn.Module:
    """The network that `save_image_model` wrote."""
    card = _read_card(Path(directory))
    config = ImageClassifierConfig.model_validate({"path": str(directory)})
    return build_image_model(config, card["num_classes"], card["in_channels"])


def _described(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> ImageClassifierConfig:
    """The configuration with the network that an exported directory says it holds."""
    if config.path is None or not (Path(config.path) / _DESCRIPTION).is_file():
        return config
    card = _read_card(Path(config.path))
    network = card["model"]
    wanted = {"num_classes": num_classes, "in_channels": in_channels}
    # A default says nothing: a recipe written out in full spells every default of a network it left open.
    fields = ImageClassifierConfig.model_fields
    asked = {name: getattr(config, name) for name in _NETWORK}
    wanted |= {name: value for name, value in asked.items() if value != fields[name].get_default()}
    held = {"num_classes": card["num_classes"], "in_channels": card["in_channels"], **network}
    for name, value in wanted.items():
        if held[name] != value:
            raise ConfigError(
                f"The model in '{config.path}' was exported with {name} {held[name]!r}, but {value!r} is asked for. "
                f"Set `path` to another export, or leave {name} out."
            )
    return config.model_copy(update={name: network[name] for name in _NETWORK})


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        network = ImageClassifierConfig.model_validate({name: card["model"][name] for name in _NETWORK})
        held = {name: getattr(network, name) for name in _NETWORK}
        return {"model": held, "num_classes": int(card["num_classes"]), "in_channels": int(card["in_channels"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{folder}' is no image classifier exported by this project: {error!r}") from error


def _weights_file(path: str) -> Path:
    place = Path(path)
    file = place / _WEIGHTS if place.is_dir() else place
    if not file.is_file() or file.suffix != ".safetensors":
        raise ConfigError(f"Weights are loaded from safetensors alone; '{file}' is no such file. Set `path`.")
    return file


def _load_weights(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(load_file(file), strict=True)
    except (RuntimeError, SafetensorError, OSError) as error:
        raise ConfigError(
            f"The weights of '{file}' do not fit the network: {error}. Set source, name, kwargs."
        ) from error
