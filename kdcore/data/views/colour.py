"""What changes the values of pixels and not their places, on uint8 [n, C, H, W], in whole numbers.

A factor f is the whole number 1024 f, one for all or one an image ([n, 1, 1, 1]); results are rounded down, as
torchvision and PIL do, and stay in 0 .. 255. Against torchvision's floats a value differs by at most one.
"""

import torch
from torch import Tensor

__all__ = [
    "autocontrast",
    "brightness",
    "contrast",
    "equalize",
    "factor",
    "posterize",
    "saturation",
    "sharpness",
    "solarize",
]

_ONE = 1024
_RED, _GREEN = 306, 601  # of 1024: ITU-R BT.601, blue has the rest


def factor(value: float) -> int:
    """A factor as a whole number."""
    return int(value * _ONE + 0.5)


def brightness(images: Tensor, by: Tensor | int) -> Tensor:
    """All values times a factor."""
    return _bytes(images.int() * by >> 10)


def contrast(images: Tensor, by: Tensor | int) -> Tensor:
    """Distances from the mean grey of each image times a factor."""
    total = _grey(images).sum((1, 2, 3), dtype=torch.int64)[:, None, None, None]
    other = torch.div((_ONE - by) * total, images.shape[-2] * images.shape[-1], rounding_mode="floor")
    return _bytes(images.int() * by + other.int() >> 10)


def saturation(images: Tensor, by: Tensor | int) -> Tensor:
    """Distances from the grey of each pixel times a factor; grey images stay."""
    return images if images.shape[1] == 1 else _blend(images, _grey(images), by)


def sharpness(images: Tensor, by: Tensor | int) -> Tensor:
    """Distances from the blurred image times a factor; the border stays."""
    if min(images.shape[-2:]) < 3:
        return images
    values = images.int()
    rows = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    inner = values[..., 1:-1, 1:-1]
    blurred = torch.div(rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner + 6, 13, rounding_mode="floor")
    result = images.clone()
    result[..., 1:-1, 1:-1] = _blend(inner, blurred, by)
    return result


def posterize(images: Tensor, bits: int) -> Tensor:
    """Only the highest bits of each value."""
    return images & (256 - (1 << (8 - bits)))


def solarize(images: Tensor, threshold: int) -> Tensor:
    """Values from a threshold on are inverted."""
    return torch.where(images >= threshold, 255 - images, images)


def autocontrast(images: Tensor) -> Tensor:
    """The values of each channel stretched to 0 .. 255; a channel of one value stays."""
    values = images.int()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    stretched = torch.div((values - low) * 255, (high - low).clamp(min=1), rounding_mode="floor")
    return torch.where(high == low, images, stretched.to(torch.uint8))


def equalize(images: Tensor) -> Tensor:
    """The values of each channel spread evenly, by PIL's rule: lut[v] = (values below v + step / 2) / step."""
    flat = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    last = counts.gather(2, images.flatten(2).amax(2, keepdim=True).long())
    step = (flat.shape[2] - last) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step[..., None] == 0, images, table.gather(2, flat).to(torch.uint8).view_as(images))


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().split(1, 1)
    return _RED * red + _GREEN * green + (_ONE - _RED - _GREEN) * blue >> 10


def _blend(images: Tensor, other: Tensor, by: Tensor | int) -> Tensor:
    return _bytes(images.int() * by + other * (_ONE - by) >> 10)


def _bytes(values: Tensor) -> Tensor:
    return values.clamp(0, 255).to(torch.uint8)
