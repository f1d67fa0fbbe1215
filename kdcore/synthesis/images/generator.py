"""From random numbers to images: the small upsampling network that data-free methods use, and noisy layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Generator", "NoisyLayers"]


class Generator(nn.Module):
    """A linear layer to maps of a quarter of the size, twice enlarged and convolved; pixels in 0 .. 1.

    BatchNorm throughout: of each batch, since a generator is never evaluated. `width` channels before the last layer,
    twice as many before; the layout of DAFL's generator (arXiv:1904.01186).
    """

    def __init__(self, latent: int, width: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, rows_wide = shape
        self._small = (2 * width, -(-height // 4), -(-rows_wide // 4))
        self._size = (height, rows_wide)
        maps, rows, columns = self._small
        self.start = nn.Linear(latent, maps * rows * columns)
        self.start_norm = _norm(maps)
        self.middle = nn.Sequential(nn.Conv2d(maps, maps, 3, 1, 1), _norm(maps), nn.LeakyReLU(0.2))
        self.end = nn.Sequential(nn.Conv2d(maps, width, 3, 1, 1), _norm(width), nn.LeakyReLU(0.2))
        self.pixels = nn.Conv2d(width, channels, 3, 1, 1)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  two to five times as fast on a CPU

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels [B, C, H, W] of latents [B, latent]."""
        maps = self.start_norm(self.start(latents).view(-1, *self._small))
        maps = self.middle(functional.interpolate(maps, scale_factor=2))
        maps = self.end(functional.interpolate(maps, size=self._size))
        return self.pixels(maps).sigmoid()


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, track_running_stats=False)


class NoisyLayers(nn.Module):
    """`layers` linear layers with weights of their own, drawn when made: [classes, D] -> [layers * classes, L].

    Each sees the same embeddings of classes, normalised; so one layer gives one latent of each class, and what differs
    between two images of a class is the layer alone (NAYER, arXiv:2310.00258).
    """

    def __init__(self, layers: int, embedding: int, latent: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(layers, embedding, latent) / embedding**0.5)
        self.bias = nn.Parameter(torch.zeros(layers, 1, latent))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Latents, layer by layer, in each the classes in order."""
        spread = functional.layer_norm(embeddings, embeddings.shape[-1:])
        return (spread @ self.weight + self.bias).flatten(0, 1)
