"""Arbitrary transfer sets (Nayak et al. 2021, arXiv:2011.09113): unrelated images, balanced by what the teacher sees.

The paper labels unrelated data by the teacher and takes as many images of each class as the rarest one has; here up to
an equal share of each class, most confident first, and where a class has too few, others' images fill the number up.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdcore.config.synthesis.images import TransferConfig
from kdcore.synthesis.images.passes import in_precision
from kdcore.synthesis.images.pixels import Collector, OnStep, PixelSpace, SynthesisedImages, noted

__all__ = ["Found", "Transfer", "balanced_choice", "shapes"]

Found = Callable[[int], Tensor]
"""Draws so many unrelated images: pixels float32 [N, C, H, W] in 0 .. 1."""
_POINTS = 12


def balanced_choice(logits: Tensor, wanted: int) -> Tensor:
    """Rows of logits [N, C] to keep, int64 [wanted], wanted at most N: see above."""
    confidence, choices = logits.softmax(-1).max(-1)
    order = confidence.argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    for target in range(logits.shape[-1]):  # the how-manieth of its class an image is
        own = order[choices[order] == target]
        places[own] = torch.arange(len(own), device=own.device)
    return places.argsort(stable=True)[:wanted]


def shapes(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Random strokes on a plain ground, pixels float32 [count, C, H, W] in 0 .. 1: an image of nothing in particular.

    One to three curves (quadratic Bezier) of their own width and colour; colours and ground are uniform, and half of
    the grounds are black.
    """
    channels, height, width = shape
    ground = torch.rand(count, channels, 1, 1) * (torch.rand(count, 1, 1, 1) < 0.5)
    pixels = ground.expand(count, *shape).clone()
    down, across = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    grid = torch.stack([down, across], -1).view(1, 1, -1, 2)
    along = torch.linspace(0, 1, _POINTS)[None, :, None]
    for number in range(3):
        first, bend, last = (0.1 + 0.8 * torch.rand(3, count, 1, 2)).unbind()
        curve = (1 - along) ** 2 * first + 2 * along * (1 - along) * bend + along**2 * last
        distance = (curve[:, :, None] - grid).norm(dim=-1).amin(1).view(count, 1, height, width)
        reach = 0.03 + 0.07 * torch.rand(count, 1, 1, 1)
        cover = ((reach - distance) * height + 0.5).clamp(0, 1)
        drawn = torch.rand(count, 1, 1, 1) < (1.0 if number == 0 else 0.5)
        pixels = torch.lerp(pixels, torch.rand(count, channels, 1, 1).expand_as(pixels), cover * drawn)
    return pixels


class Transfer:
    """Looks at `candidates` times as many images as are wanted, and keeps a balanced choice of them."""

    def __init__(self, teacher: nn.Module, settings: TransferConfig, space: PixelSpace, found: Found | None) -> None:
        self._teacher, self._settings, self._space = teacher, settings, space
        self._found: Found = found or (lambda count: shapes(count, space.shape))
        self._device = next(teacher.parameters()).device

    @torch.no_grad()
    def run(self, wanted: int, on_step: OnStep) -> SynthesisedImages:
        """`wanted` images and the classes that the teacher sees in them."""
        count, seen = int(self._settings.candidates * wanted), 0
        parts: list[tuple[Tensor, Tensor]] = []
        while seen < count:
            pixels = self._found(min(self._settings.batch_size, count - seen))
            with in_precision(self._settings.precision, self._device):
                logits = self._teacher(self._space.seen(pixels.to(self._device))).float()
            parts.append((PixelSpace.to_bytes(pixels), logits.cpu()))
            seen += len(pixels)
            on_step(seen * wanted // count, {})
        pixels, logits = (torch.cat(part) for part in zip(*parts, strict=True))
        rows = balanced_choice(logits, wanted)
        kept, losses = Collector(wanted), noted({"confidence": logits[rows].softmax(-1).amax(-1).mean()})
        kept.add(PixelSpace.from_bytes(pixels[rows]), logits[rows].argmax(-1), 1, losses)
        return kept.all()
