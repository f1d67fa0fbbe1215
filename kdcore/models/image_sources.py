"""Where image classifiers come from, one function a source."""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdcore.config.models import ImageClassifierConfig
from kdcore.errors import ConfigError, missing_extra
from kdcore.models.cifar_resnet import CifarResNet
from kdcore.models.convnet import ConvNet
from kdcore.models.lenet import LeNet5
from kdcore.models.mlp import MLP
from kdcore.models.pretrained import load_safetensors_model, refuse_unknown_keys

TRANSFORMERS_SETTINGS = "transformers.json"
"""In an export: the config of a network of transformers."""


class LogitsOnly(nn.Module):
    """A transformers classifier that takes pixels by position and returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, num_classes] of pixels [B, C, H, W]."""
        return self.model(pixel_values=pixels).logits


_OWN: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "cifar_resnet": CifarResNet,
    "lenet": LeNet5,
    "mlp": MLP,
}


def _own(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    return _OWN[config.source](num_classes, in_channels, **config.kwargs)


_SHAPED_BY_WEIGHTS = ("googlenet", "inception", "maxvit", "vit")
"""Of torchvision's: their `weights` decide on sizes and branches, too."""


def _without_fetching(config: ImageClassifierConfig, setting: str) -> dict[str, Any]:
    """The arguments without the one that has weights fetched, where those of `path` take their place."""
    given = config.kwargs
    return given if config.path is None else {name: value for name, value in given.items() if name != setting}


def _timm(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise missing_extra("timm", "vision", "source 'timm'") from error
    kwargs = _without_fetching(config, "pretrained")
    return timm.create_model(config.name, num_classes=num_classes, in_chans=in_channels, **kwargs)


def _torchvision(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    try:
        from torchvision.models import get_model
    except ImportError as error:
        raise missing_extra("torchvision", "vision", "source 'torchvision'") from error
    if in_channels != 3:
        raise ConfigError(f"torchvision's networks take 3 channels, the data have {in_channels}: set data.channels: 3")
    fixed = config.name.startswith(_SHAPED_BY_WEIGHTS)
    kwargs = config.kwargs if fixed else _without_fetching(config, "weights")
    with _tensors_alone():
        return get_model(config.name, num_classes=num_classes, **kwargs)


@contextmanager
def _tensors_alone() -> Iterator[None]:
    """torch.load runs no code from a file, although torchvision asks for any pickle of a file that is in its cache."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _transformers(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise missing_extra("transformers", "text", "source 'transformers'") from error
    if config.name and config.path is None:
        options = {"num_labels": num_classes, "trust_remote_code": False, **config.kwargs}
        return LogitsOnly(load_safetensors_model(AutoModelForImageClassification, config.name, **options))
    settings = {"num_labels": num_classes, "num_channels": in_channels, **config.kwargs}
    place = _settings_place(config)
    made = AutoConfig.from_pretrained(place, **settings) if place else AutoConfig.for_model(**settings)
    refuse_unknown_keys(made, config.kwargs, "kwargs")
    return LogitsOnly(AutoModelForImageClassification.from_config(made))


def _settings_place(config: ImageClassifierConfig) -> str:
    """Where a transformers config is: beside exported weights, since what they began from may be gone; or its name."""
    beside = None if config.path is None else Path(config.path) / TRANSFORMERS_SETTINGS
    return config.name if beside is None or not beside.is_file() else str(beside)


def _imported(config: ImageClassifierConfig, num_classes: int, in_channels: int) -> nn.Module:
    module, _, name = config.name.partition(":")
    try:
        build = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"`name` must be `module:callable` on the import path, got '{config.name}': {error}"
        ) from error
    model = build(num_classes=num_classes, in_channels=in_channels, **config.kwargs)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"'{config.name}' must return a torch.nn.Module, got {type(model).__name__}")
    return model


BUILDERS: dict[str, Callable[[ImageClassifierConfig, int, int], nn.Module]] = {
    **dict.fromkeys(_OWN, _own),
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "import": _imported,
}
"""What builds an image classifier, by `source`: from its settings, classes and channels."""
