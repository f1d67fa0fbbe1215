"""RandAugment (Cubuk et al., 2019) with the operations and magnitudes of torchvision, on uint8 [n, C, S, S].

Images that share an operation go through it together. All is whole-number arithmetic; what is turned, sheared or moved
takes the nearest pixel, black where there is none.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kdcore.data.views import colour
from kdcore.labels.views.fields import OPS

__all__ = ["apply_operation", "rand_augment"]

_STRONGEST = 30
_ONE = 1 << 16  # of a coefficient


def rand_augment(images: Tensor, codes: np.ndarray, magnitude: int) -> Tensor:
    """The operations `codes` [n, operations] of each image, one after the other."""
    for column in codes.T:
        result = images.clone()
        for code in np.unique(column):
            chosen = torch.from_numpy(np.flatnonzero(column == code))
            result[chosen] = apply_operation(images[chosen], int(code), magnitude)
        images = result
    return images


def apply_operation(images: Tensor, code: int, magnitude: int) -> Tensor:
    """One operation on all images."""
    name, sign = OPS[code]
    if name in _PLAIN:
        return _PLAIN[name](images)
    if name in _FACTORS:
        return _FACTORS[name](images, colour.factor(1 + sign * 0.9 * magnitude / _STRONGEST))
    if name == "posterize":
        return colour.posterize(images, 8 - round(4 * magnitude / _STRONGEST))
    if name == "solarize":
        return colour.solarize(images, -(-255 * (_STRONGEST - magnitude) // _STRONGEST))
    places, inside = _sources(name, sign * magnitude / _STRONGEST, images.shape[-1])
    return (images.flatten(2)[:, :, places] * inside).view_as(images)


_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda images: images,
    "autocontrast": colour.autocontrast,
    "equalize": colour.equalize,
}
_FACTORS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "brightness": colour.brightness,
    "saturation": colour.saturation,
    "contrast": colour.contrast,
    "sharpness": colour.sharpness,
}


@lru_cache(maxsize=64)
def _sources(name: str, strength: float, size: int) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, int64 [size * size], and 1 where that is inside, uint8; `strength` in -1 .. 1."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    if name.startswith("translate"):
        pixels = int(150 / 331 * size * strength)
        x, y = (x - pixels, y) if name.endswith("x") else (x, y - pixels)
    elif name.startswith("shear"):
        slope = _fixed(0.3 * strength)
        x, y = (x + _half(slope * (2 * y + 1)), y) if name.endswith("x") else (x, y + _half(slope * (2 * x + 1)))
    else:
        angle = math.radians(30 * strength)
        cosine, sine, middle = _fixed(math.cos(angle)), _fixed(math.sin(angle)), (size - 1) * _ONE
        across, down = 2 * x - size + 1, 2 * y - size + 1  # from the centre, in half pixels
        x, y = _half(cosine * across - sine * down + middle), _half(sine * across + cosine * down + middle)
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    return torch.where(inside, y * size + x, 0).flatten(), inside.flatten().to(torch.uint8)


def _fixed(value: float) -> int:
    return math.floor(value * _ONE + 0.5)


def _half(value: Tensor) -> Tensor:
    """Half of a fixed-point number, as the nearest whole one."""
    return value + _ONE >> 17
