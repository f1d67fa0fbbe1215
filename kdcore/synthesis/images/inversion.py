"""Inversion: a batch of images of given classes, made by descent on what the teacher says of them.

What the images hang on (pixels, or a generator and its input) is a canvas; a method chooses the canvas and its terms.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.synthesis.images import InversionSettings
from kdcore.synthesis.images.augment import flipped, shifted
from kdcore.synthesis.images.balance import balanced_targets
from kdcore.synthesis.images.disagreement import agreed_kl
from kdcore.synthesis.images.passes import in_precision
from kdcore.synthesis.images.pixels import Collector, OnStep, PixelSpace, SynthesisedImages, noted, total
from kdcore.synthesis.images.pool import ImagePool
from kdcore.synthesis.images.priors import l2, total_variation
from kdcore.synthesis.images.shadow import ShadowStudent
from kdcore.synthesis.images.statistics import Inside

__all__ = ["Canvas", "Inversion", "pixel_canvas"]

S = TypeVar("S", bound=InversionSettings)
_BETAS = (0.5, 0.999)


@dataclass
class Canvas:
    """`draw` gives the pixels [B, C, H, W] in 0 .. 1 of what `parameters`, the groups of an optimizer, hold."""

    draw: Callable[[], Tensor]
    parameters: list[dict[str, Any]]


def pixel_canvas(count: int, space: PixelSpace, device: torch.device) -> Canvas:
    """Pixels themselves, from noise of the mean and spread that normalised pixels have. Gradients pass the limits."""
    held = torch.randn((count, *space.shape), device=device, requires_grad=True)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (space.mean, space.std))

    def draw() -> Tensor:
        pixels = held * std + mean
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    return Canvas(draw, [{"params": [held]}])


class Inversion(ABC, Generic[S]):
    """Batches of images, one after the other; the best of all steps is kept, by the sum of its terms."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module | None, settings: S, space: PixelSpace, num_classes: int
    ) -> None:
        self.teacher, self.settings, self.space, self.num_classes = teacher, settings, space, num_classes
        self.device = next(teacher.parameters()).device
        self.student = None if student is None else ShadowStudent(student, teacher, settings, space)
        self.batches = 0
        self.made = torch.zeros(num_classes, dtype=torch.int64)

    def run(self, wanted: int, on_step: OnStep) -> SynthesisedImages:
        """`wanted` images, as many of each class as can be."""
        kept, pool = Collector(wanted), ImagePool(self.space.shape, wanted)
        while kept.have < wanted:
            count = min(self.settings.batch_size, wanted - kept.have)
            targets = self.targets(count).to(self.device)
            pixels, step, losses = self._invert(targets, lambda terms: on_step(kept.have, terms))
            kept.add(pixels, targets, step, losses)
            self.batches += 1
            self.made += torch.bincount(targets.cpu(), minlength=self.num_classes)
            if self.student is not None:
                pool.add(pixels)
                losses["student"] = self.student.learn(pixels, pool, self.settings.student_steps)
        return kept.all()

    @abstractmethod
    def canvas(self, targets: Tensor) -> Canvas:
        """What the images of a batch hang on."""

    def targets(self, count: int) -> Tensor:
        """The classes of a batch."""
        return balanced_targets(count, self.made)

    def terms(self, pixels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The terms that have a weight, by the names of their settings; further ones are added here by a method."""
        settings, seen = self.settings, self.space.seen(self.viewed(pixels))
        with self.watched() as inside:
            logits = self.answers(seen)
            terms = {"batch_norm": inside.distance(settings.first_layer)} if settings.batch_norm else {}
            if settings.layer_norm:
                terms["layer_norm"] = inside.token_distance()
            terms |= self.inner_terms(inside, pixels)
        if settings.one_hot:
            terms["one_hot"] = self.classified(logits, targets)
        if settings.adversarial and self.batches >= settings.unheard_batches:
            terms["adversarial"] = self.agreement(seen, logits)
        if settings.total_variation:
            terms["total_variation"] = total_variation(seen)
        if settings.l2:
            terms["l2"] = l2(seen)
        return terms

    def watched(self, means: bool = False) -> Inside:
        """What is noted of the teacher's passes; means of layers for a method that compares by them."""
        settings = self.settings
        return Inside(
            self.teacher, statistics=settings.batch_norm > 0, layer_norms=settings.layer_norm > 0, means=means
        )

    def inner_terms(self, inside: Inside, pixels: Tensor) -> dict[str, Tensor]:
        """Terms of what was noted."""
        return {}

    def classified(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How far the teacher's answers are from what was asked for."""
        return functional.cross_entropy(logits, targets)

    def agreement(self, seen: Tensor, logits: Tensor) -> Tensor:
        """What is lowered so that the student disagrees: KL where both choose one class, negative."""
        assert self.student is not None
        return -agreed_kl(self.student.logits(seen), logits).mean()

    def viewed(self, pixels: Tensor) -> Tensor:
        """What is seen of images: moved a little, half of them mirrored if so set."""
        pixels = shifted(pixels, self.settings.shift)
        return flipped(pixels) if self.settings.flip else pixels

    def answers(self, seen: Tensor) -> Tensor:
        """The teacher's logits float32."""
        with in_precision(self.settings.precision, self.device):
            return self.teacher(seen).float()

    def after_backward(self) -> None:
        """Called between gradients and the optimizer's step."""

    def after_batch(self) -> None:
        """Called when a batch is done."""

    def _invert(
        self, targets: Tensor, on_terms: Callable[[dict[str, float]], None]
    ) -> tuple[Tensor, int, dict[str, float]]:
        """The best pixels, the step they are of, counted from 1, and their terms."""
        canvas = self.canvas(targets)
        optimizer = torch.optim.Adam(canvas.parameters, self.settings.learning_rate, betas=_BETAS)
        best: tuple[float, Tensor, int, dict[str, float]] | None = None
        for step in range(1, self.settings.steps + 1):
            pixels = canvas.draw()
            terms = self.terms(pixels, targets)
            loss = total(self.settings, terms)
            losses = noted(terms)
            if best is None or loss.item() < best[0]:
                best = (loss.item(), pixels.detach(), step, losses)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.after_backward()
            optimizer.step()
            on_terms(losses)
        self.after_batch()
        assert best is not None
        return best[1:]
