"""Images made so far, from which a student rehearses."""

import torch
from torch import Tensor

from kdcore.synthesis.images.pixels import PixelSpace

__all__ = ["ImagePool"]


class ImagePool:
    """Holds up to `capacity` images as uint8; when it is full, a new one takes the place of a random old one."""

    def __init__(self, shape: tuple[int, int, int], capacity: int) -> None:
        self._held = torch.empty((capacity, *shape), dtype=torch.uint8)
        self.size = 0

    def add(self, pixels: Tensor) -> None:
        """Images in 0 .. 1, [B, C, H, W]."""
        new = PixelSpace.to_bytes(pixels).cpu()
        room = min(len(new), len(self._held) - self.size)
        self._held[self.size : self.size + room] = new[:room]
        self.size += room
        if room < len(new):
            # By numpy, where the last of two images for one place stays; torch's threads race for it.
            places = torch.randint(0, self.size, (len(new) - room,)).numpy()
            self._held.numpy()[places] = new[room:].numpy()

    def sample(self, count: int) -> Tensor:
        """`count` images drawn with replacement, float32 in 0 .. 1. The pool must not be empty."""
        assert self.size
        return PixelSpace.from_bytes(self._held[torch.randint(0, self.size, (count,))])
