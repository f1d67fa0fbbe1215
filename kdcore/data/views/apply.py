"""From decoded images and the parameters of views to the pixels that teacher and student see.

In this order: crop and flip; brightness, contrast, saturation; RandAugment; erasure; the mix with a partner. The
partner is cropped and flipped by the numbers of the view itself and undergoes nothing else, so that it costs no
parameters but its name. Every step gives bytes, rounded the same way on every machine; they are normalised last.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcore.config.views import ColorJitter, ViewPolicy
from kdcore.data.views import colour
from kdcore.data.views.boxes import cut_boxes, erase_boxes
from kdcore.data.views.crop import crop_views
from kdcore.data.views.operations import rand_augment
from kdcore.errors import DataError
from kdcore.labels.views import CUTMIX, MIXUP, UNMIXED, Views
from kdcore.labels.views.fields import COARSE_STEPS, FINE_STEPS

__all__ = ["apply_views", "render_views"]

Images = Sequence[np.ndarray]
"""Decoded images uint8 [H, W, C], C of 1 or 3; sizes may differ."""


def apply_views(
    policy: ViewPolicy,
    images: Images,
    views: Views,
    partners: Sequence[np.ndarray | None],
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
) -> Tensor:
    """Normalised pixels of `views[i]` of `images[i]`, float32 [n, C, size, size].

    `partners[i]` is the decoded image that a mixed view is mixed with; others are not looked at. `mean` and `std` (one
    a channel) are of values in 0 .. 1. A view has the same pixels alone and in any batch. DataError for other images
    than uint8 [H, W, C], or a mixed view without a partner.
    """
    pixels = render_views(policy, images, views, partners, mean, size).float()
    shift, scale = (torch.tensor(list(values), dtype=torch.float32)[:, None, None] for values in (mean, std))
    return pixels.div_(255).sub_(shift).div_(scale)


def render_views(
    policy: ViewPolicy,
    images: Images,
    views: Views,
    partners: Sequence[np.ndarray | None],
    mean: Sequence[float],
    size: int,
) -> Tensor:
    """What `apply_views` normalises, uint8 [n, C, size, size]; an erased box has the colour `mean`."""
    if not len(views) == len(images) == len(partners):
        raise DataError(f"{len(views)} views need as many images and partners: {len(images)}, {len(partners)}")
    pixels = crop_views(policy, images, views, size)
    if policy.color_jitter:
        pixels = _jitter(pixels, policy.color_jitter, views)
    if policy.rand_augment:
        pixels = rand_augment(pixels, views.ops, policy.rand_augment.magnitude)
    if policy.erase:
        fill = torch.tensor([int(255 * value + 0.5) for value in mean], dtype=torch.uint8)[:, None, None]
        pixels = torch.where(_mask(erase_boxes(views, size), size), fill, pixels)
    return _mixed(policy, pixels, views, partners, size) if policy.mix else pixels


def _jitter(pixels: Tensor, jitter: ColorJitter, views: Views) -> Tensor:
    for change, most, steps in (
        (colour.brightness, jitter.brightness, views.brightness),
        (colour.contrast, jitter.contrast, views.contrast),
        (colour.saturation, jitter.saturation, views.saturation),
    ):
        if most:
            table = [colour.factor(1 + most * (2 * i + 1 - COARSE_STEPS) / COARSE_STEPS) for i in range(COARSE_STEPS)]
            pixels = change(pixels, _each(np.array(table, np.int32)[steps]))
    return pixels


def _mixed(
    policy: ViewPolicy, pixels: Tensor, views: Views, partners: Sequence[np.ndarray | None], size: int
) -> Tensor:
    rows = np.flatnonzero(views.mixed != UNMIXED)
    given = [image for image in (partners[row] for row in rows.tolist()) if image is not None]
    if len(given) < len(rows):
        raise DataError(f"{len(rows)} of these views are mixed, and {len(given)} of their partners were given")
    if not len(rows):
        return pixels
    chosen, index = views[rows], torch.from_numpy(rows)
    own, other = pixels[index], crop_views(policy, given, chosen, size)
    if other.shape != own.shape:
        raise DataError(f"partners have as many channels as their images: {other.shape[1]}, not {own.shape[1]}")
    share = _each(2 * chosen.share.astype(np.int32) + 1)
    blend = (own.int() * share + other.int() * (2 * FINE_STEPS - share) + FINE_STEPS >> 9).to(torch.uint8)
    own = torch.where(_each(chosen.mixed == MIXUP), blend, own)
    own = torch.where(_each(chosen.mixed == CUTMIX) & _mask(cut_boxes(chosen, size), size), other, own)
    return pixels.index_copy(0, index, own)


def _each(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)[:, None, None, None]


def _mask(boxes: np.ndarray, size: int) -> Tensor:
    """True inside of each box (top, left, height, width), bool [n, 1, size, size]."""
    top, left, height, width = torch.from_numpy(boxes).T[:, :, None]
    steps = torch.arange(size)
    rows, columns = ((steps >= first) & (steps < first + length) for first, length in ((top, height), (left, width)))
    return (rows[:, :, None] & columns[:, None, :])[:, None]
