"""An image classifier as a teacher: pixels in, logits out."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdcore.config.models import DType, TeacherImageConfig
from kdcore.errors import ConfigError, TeacherError
from kdcore.labels.feature import ShapedLayers
from kdcore.models.image import build_image_model, describe_network
from kdcore.models.image_sources import LogitsOnly
from kdcore.taps import Taps
from kdcore.teachers.base import DTYPES, model_identity, network_settings, pick_device


class ImageTeacher:
    """The teacher of an image recipe; with `fit`, set `path` to the directory it was exported to.

    Raises TeacherError when the network cannot be built or its weights do not fit.
    """

    kind: Literal["image"] = "image"
    tokenizer: None = None

    def __init__(
        self, config: TeacherImageConfig, num_classes: int, in_channels: int, device: str | None = None
    ) -> None:
        _check_trained(config)
        try:
            network = describe_network(config, num_classes, in_channels)
            model = build_image_model(config, num_classes, in_channels)
        except ConfigError as error:
            raise TeacherError(error.message) from error
        _check_head(config, model, num_classes)
        if isinstance(model, LogitsOnly):  # its name is a path: its settings say what it is
            network = network_settings(model.model.config)
        self._network = {**network, "num_classes": num_classes, "in_channels": in_channels}
        self._dtype: DType = config.dtype
        self._device = pick_device(device)
        self.model = model.to(self._device, DTYPES[config.dtype]).requires_grad_(False).eval()
        self.num_classes = num_classes

    def identity(self) -> dict[str, Any]:
        """Network, weights and dtype."""
        return {"type": "image_classifier", **model_identity(self.model, self._dtype, self._network)}

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Logits float32 [B, num_classes] of pixels float32 [B, C, H, W]. Raises TeacherError for another shape."""
        answer = self.model(pixels.to(self._device, DTYPES[self._dtype]))
        wanted = (pixels.shape[0], self.num_classes)
        if not isinstance(answer, Tensor) or tuple(answer.shape) != wanted:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise TeacherError(f"A classifier must return logits {wanted}, got {got}. Set teacher.source and kwargs.")
        return answer.float()

    def features(self, pixels: Tensor, layers: Sequence[str]) -> Tensor:
        """Features float32 [B, D] of the modules `layers`, flattened, side by side; ConfigError for an unknown one."""
        with Taps(self.model, layers) as taps:
            self.logits(pixels)
        return torch.cat([taps.outputs[layer].float().reshape(len(pixels), -1) for layer in layers], dim=1)

    def feature_layers(self, layers: Sequence[str], pixels: Tensor) -> ShapedLayers:
        """The shape of each of `layers`, from a pass over `pixels` [1, C, H, W]."""
        with Taps(self.model, layers) as taps:
            self.logits(pixels)
        return tuple((layer, tuple(taps.outputs[layer].shape[1:])) for layer in layers)


def _check_trained(config: TeacherImageConfig) -> None:
    """Refuses a network that would label with its initial weights."""
    brings_weights = {
        "timm": bool(config.kwargs.get("pretrained")),
        "torchvision": config.kwargs.get("weights") is not None,
        "transformers": bool(config.name),
        "import": True,  # what the callable returns is its own affair
    }
    if config.path is None and not brings_weights.get(config.source, False):
        raise TeacherError(
            f"A teacher must have weights; the '{config.source}' network '{config.name}' has only its initial ones. "
            "Set teacher.path to its safetensors, or teacher.fit to train it in this run."
        )


def _check_head(config: TeacherImageConfig, model: nn.Module, num_classes: int) -> None:
    """Refuses a head that timm made anew, with random weights, because those it fetched are of other classes."""
    if config.source != "timm" or config.path is not None:
        return
    held = (getattr(model, "pretrained_cfg", None) or {}).get("num_classes", num_classes)
    if held != num_classes:
        raise TeacherError(
            f"A teacher must know the classes of the data: they are {num_classes}, and the weights that timm has of "
            f"'{config.name}' are of {held}, so that its head would be random. Set teacher.path to weights that were "
            "trained on these classes, or teacher.fit to train it in this run."
        )
