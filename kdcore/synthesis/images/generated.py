"""Canvases of generators: images that hang on a generator's weights and on what goes into it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdcore.config.synthesis.images import CmiConfig, FastMetaConfig, NayerConfig
from kdcore.synthesis.images.generator import Generator
from kdcore.synthesis.images.passes import in_precision
from kdcore.synthesis.images.pixels import PixelSpace

__all__ = ["drawing", "new_generator"]

_Settings = CmiConfig | FastMetaConfig | NayerConfig


def new_generator(settings: _Settings, space: PixelSpace, device: torch.device) -> Generator:
    """A generator with drawn weights."""
    return Generator(settings.latent, settings.width, space.shape).to(device)


def drawing(generator: nn.Module, latents: Callable[[], Tensor], settings: _Settings) -> Callable[[], Tensor]:
    """What a canvas draws: the generator's pixels float32 of the latents [B, latent]."""

    def draw() -> Tensor:
        given = latents()
        with in_precision(settings.precision, given.device):
            return generator(given).float()

    return draw
