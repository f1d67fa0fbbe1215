"""The first step of a view: its crop, resized, and mirrored or not."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdcore.config.views import PadCrop, RandomResizedCrop, ViewPolicy
from kdcore.data.views.boxes import crop_boxes
from kdcore.errors import DataError
from kdcore.labels.views import Views

__all__ = ["crop_views"]


def crop_views(policy: ViewPolicy, images: Sequence[np.ndarray], views: Views, size: int) -> Tensor:
    """Decoded images uint8 [H, W, C] of any sizes into uint8 [n, C, size, size], cropped and flipped."""
    _check(images)
    if isinstance(policy.crop, RandomResizedCrop):
        shapes = np.array([image.shape[:2] for image in images], np.int64)
        boxes = crop_boxes(policy.crop, views, shapes[:, 0], shapes[:, 1]).tolist()
        pixels = torch.stack(
            [
                _resized(image[top : top + h, left : left + w], size)
                for image, (top, left, h, w) in zip(images, boxes, strict=True)
            ]
        )
    else:
        pixels = _whole(images, size)
    if isinstance(policy.crop, PadCrop):
        pixels = _shifted(pixels, views, policy.crop.padding)
    mirrored = torch.from_numpy(views.flip > 0)[:, None, None, None]
    return torch.where(mirrored, pixels.flip(-1), pixels) if policy.flip else pixels


def _whole(images: Sequence[np.ndarray], size: int) -> Tensor:
    if all(image.shape[:2] == (size, size) for image in images):
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return torch.stack([_resized(image, size) for image in images])


def _resized(image: np.ndarray, size: int) -> Tensor:
    """uint8 [h, w, C] to [C, size, size]: torch's antialiased bilinear, in whole numbers for uint8."""
    # A copy of one layout: which of its loops torch takes depends on the strides.
    pixels = torch.from_numpy(np.array(image, order="C")).permute(2, 0, 1)[None]
    if image.shape[:2] == (size, size):
        return pixels[0].contiguous()
    resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return resized[0].contiguous()


def _shifted(pixels: Tensor, views: Views, padding: int) -> Tensor:
    """Windows of the images with a black border, whose corners are pixels of the padded ones."""
    num, size = len(pixels), pixels.shape[-1]
    padded = torch.nn.functional.pad(pixels, [padding] * 4)
    steps = torch.arange(size)
    rows = torch.from_numpy(views.y.astype(np.int64))[:, None] + steps
    columns = torch.from_numpy(views.x.astype(np.int64))[:, None] + steps
    # Indexed last to first, so that torch copies all channels of a pixel at once.
    taken = padded.permute(0, 2, 3, 1)[torch.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2).contiguous()


def _check(images: Sequence[np.ndarray]) -> None:
    channels = {image.shape[2] if image.ndim == 3 and image.dtype == np.uint8 else 0 for image in images}
    if len(channels) != 1 or not channels <= {1, 3}:
        found = sorted({f"{image.dtype} {list(image.shape)}" for image in images})
        raise DataError(
            f"views are rendered from decoded images, uint8 [H, W, C] with one C of 1 or 3, got {found[:4] or 'none'}"
        )
