"""The images that a teacher knows: their shape, and how pixels in 0 .. 1 become what it sees."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdcore.errors import ConfigError, LabelError

__all__ = ["Collector", "OnStep", "PixelSpace", "SynthesisedImages", "noted", "total"]

OnStep = Callable[[int, dict[str, float]], None]
"""Is told after each step how many images there are, and the terms of that step, unweighted."""


def total(settings: object, terms: dict[str, Tensor]) -> Tensor:
    """The sum of terms, each times the setting of its name. ConfigError where none has a weight."""
    if not terms:
        raise ConfigError(
            "images must be made to lower something, and every weight is 0: set one of synthesis.one_hot, "
            "synthesis.batch_norm, synthesis.adversarial or another weight of this method above 0"
        )
    return torch.stack([getattr(settings, name) * term for name, term in terms.items()]).sum()


def noted(terms: dict[str, Tensor]) -> dict[str, float]:
    """The terms as numbers. Raises LabelError for one that is not finite."""
    values = {name: term.item() for name, term in terms.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise LabelError(
            f"The terms of a synthesis must be finite, got {values}: the descent diverged, or the teacher's answers "
            "are not finite. Lower synthesis.learning_rate, or set synthesis.precision to float32"
        )
    return values


@dataclass(frozen=True)
class PixelSpace:
    """Images of `shape` (C, H, W); a teacher sees (pixels - mean) / std, one mean and std a channel."""

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def seen(self, pixels: Tensor) -> Tensor:
        """What a network is given of pixels in 0 .. 1, [B, C, H, W]."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    @staticmethod
    def to_bytes(pixels: Tensor) -> Tensor:
        """Pixels in 0 .. 1 as uint8, rounded."""
        return (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8)

    @staticmethod
    def from_bytes(pixels: Tensor) -> Tensor:
        """Pixels float32 in 0 .. 1 of uint8 ones."""
        return pixels.float() / 255


@dataclass
class SynthesisedImages:
    """What a method made: pixels uint8 [N, C, H, W], classes int64 [N], and how each image came to be.

    `targets` is the class asked for, or the teacher's choice where none was; `steps` the step at which an image was
    taken; `losses` the terms of its batch then, unweighted.
    """

    pixels: Tensor
    targets: Tensor
    steps: Tensor
    losses: list[dict[str, float]]

    def __len__(self) -> int:
        return len(self.targets)


@dataclass
class Collector:
    """Gathers images batch by batch until there are `wanted`."""

    wanted: int
    _parts: list[SynthesisedImages] = field(default_factory=list)
    have: int = 0

    def add(self, pixels: Tensor, targets: Tensor, steps: Tensor | int, losses: dict[str, float]) -> None:
        """Keeps what is still wanted of a batch; `pixels` in 0 .. 1."""
        count = min(len(targets), self.wanted - self.have)
        if isinstance(steps, int):
            steps = torch.full((len(targets),), steps)
        kept = PixelSpace.to_bytes(pixels[:count]).cpu()
        self._parts.append(SynthesisedImages(kept, targets[:count].cpu(), steps[:count].cpu(), [losses] * count))
        self.have += count

    def all(self) -> SynthesisedImages:
        """Everything gathered, in order."""
        parts = self._parts
        return SynthesisedImages(
            torch.cat([part.pixels for part in parts]),
            torch.cat([part.targets for part in parts]),
            torch.cat([part.steps for part in parts]),
            [losses for part in parts for losses in part.losses],
        )
