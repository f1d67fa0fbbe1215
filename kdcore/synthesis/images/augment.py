"""Random views of made images that gradients go through; every draw is of torch's generator of this process."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["flipped", "resized_crops", "shifted"]


def shifted(pixels: Tensor, most: int) -> Tensor:
    """Each image [B, C, H, W] moved by up to `most` pixels across and down; the edge is repeated."""
    if most == 0:
        return pixels
    count, _, height, width = pixels.shape
    padded = functional.pad(pixels, (most,) * 4, mode="replicate")
    views = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, across = torch.randint(0, 2 * most + 1, (2, count))
    return views[torch.arange(count), :, down, across]


def flipped(pixels: Tensor) -> Tensor:
    """Each image mirrored with probability one half."""
    mirrored = (torch.rand(len(pixels), 1, 1, 1) < 0.5).to(pixels.device)
    return torch.where(mirrored, pixels.flip(-1), pixels)


def resized_crops(pixels: Tensor, smallest: float = 0.25) -> Tensor:
    """A square cut of each image, of `smallest` to all of its area, enlarged to the whole image again."""
    count = len(pixels)
    side = (smallest + (1 - smallest) * torch.rand(count)).sqrt()
    centre = (2 * torch.rand(2, count) - 1) * (1 - side)
    zero = torch.zeros(count)
    places = torch.stack([side, zero, centre[0], zero, side, centre[1]], dim=1).view(count, 2, 3)
    grid = functional.affine_grid(places.to(pixels), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
