"""Boxes of crops, erasures and cutmix in pixels, from the steps of a view and the size of an image.

A square root is the only operation here that is not exact, and IEEE 754 rounds it correctly; logarithms are taken once
a policy, on its two bounds.
"""

import math

import numpy as np

from kdcore.config.views import RandomResizedCrop
from kdcore.labels.views import CUTMIX, MIXUP, Views
from kdcore.labels.views.fields import COARSE_STEPS, FINE_STEPS

__all__ = ["crop_boxes", "cut_boxes", "erase_boxes", "own_shares"]

_ERASE_SCALE, _ERASE_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)  # timm's RandomErasing


def crop_boxes(crop: RandomResizedCrop, views: Views, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Top, left, height and width of each view's crop in an image of so many pixels (int [n]), int64 [n, 4].

    Step a of the area is the middle of the a-th of equal parts of `scale`, of the ratio the same in its logarithm; a
    box that is wider or higher than the image is cut to it.
    """
    shape = _shape(crop.scale, crop.ratio, views.area, FINE_STEPS, views.ratio, heights, widths)
    return _placed(shape, views.y, views.x, FINE_STEPS, heights, widths)


def erase_boxes(views: Views, size: int) -> np.ndarray:
    """Top, left, height and width of what is erased of size x size pixels, int64 [n, 4]; zeros where nothing is."""
    sides = np.full(len(views), size)
    shape = _shape(_ERASE_SCALE, _ERASE_RATIO, views.erase_area, COARSE_STEPS, views.erase_ratio, sides, sides)
    return _placed(shape, views.erase_y, views.erase_x, COARSE_STEPS, sides, sides) * (views.erased > 0)[:, None]


def cut_boxes(views: Views, size: int) -> np.ndarray:
    """Top, left, height and width of the partner's box in size x size pixels, int64 [n, 4]; zeros without cutmix.

    A square whose area is one minus the share, about its centre; what lies outside is cut off, so that the share that
    is left is `own_shares`.
    """
    half = (_whole(size * np.sqrt(1 - _share(views))) // 2)[:, None]
    centre = size * (2 * np.stack([views.cut_y, views.cut_x], 1).astype(np.int64) + 1) // (2 * COARSE_STEPS)
    first, last = np.maximum(centre - half, 0), np.minimum(centre + half, size)
    return np.concatenate([first, last - first], 1) * (views.mixed == CUTMIX)[:, None]


def own_shares(views: Views, size: int) -> np.ndarray:
    """How much of each view is its own image and not its partner's, float64 [n]: what mixes hard labels."""
    boxes = cut_boxes(views, size)
    outside = 1 - boxes[:, 2] * boxes[:, 3] / size**2
    return np.where(views.mixed == MIXUP, _share(views), outside)


def _share(views: Views) -> np.ndarray:
    return (2 * views.share.astype(np.int64) + 1) / (2 * FINE_STEPS)


def _shape(
    scale: tuple[float, float],
    ratio: tuple[float, float],
    area_step: np.ndarray,
    area_steps: int,
    ratio_step: np.ndarray,
    heights: np.ndarray,
    widths: np.ndarray,
) -> np.ndarray:
    """Height and width, int64 [n, 2], at least one pixel and at most the image's."""
    area = scale[0] + (scale[1] - scale[0]) * (2 * area_step.astype(np.int64) + 1) / (2 * area_steps)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    ratios = np.array([math.exp(low + (high - low) * (2 * i + 1) / (2 * COARSE_STEPS)) for i in range(COARSE_STEPS)])
    pixels, shape = area * heights * widths, ratios[ratio_step]
    sides = np.stack([_whole(np.sqrt(pixels / shape)), _whole(np.sqrt(pixels * shape))], 1)
    return np.clip(sides, 1, np.stack([heights, widths], 1))


def _placed(
    shape: np.ndarray, y: np.ndarray, x: np.ndarray, steps: int, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    room = np.stack([heights, widths], 1) - shape + 1
    corner = np.stack([y, x], 1).astype(np.int64) * room // steps
    return np.concatenate([corner, shape], 1).astype(np.int64)


def _whole(values: np.ndarray) -> np.ndarray:
    return np.floor(values + 0.5).astype(np.int64)
