"""The game of a generator: trained throughout a unit, against what a teacher (and a student) say of its images."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.synthesis.images import DaflConfig, DfqConfig, ZsktConfig
from kdcore.synthesis.images.balance import class_balance
from kdcore.synthesis.images.disagreement import kl
from kdcore.synthesis.images.generator import Generator
from kdcore.synthesis.images.passes import in_precision
from kdcore.synthesis.images.pixels import Collector, OnStep, PixelSpace, SynthesisedImages, noted, total
from kdcore.synthesis.images.pool import ImagePool
from kdcore.synthesis.images.priors import pixel_statistics, total_variation
from kdcore.synthesis.images.shadow import ShadowStudent
from kdcore.synthesis.images.statistics import Inside

__all__ = ["GeneratorGame"]

_POOL = 20_000


class GeneratorGame:
    """One step: the generator on `terms`, then the unit's student, where there is one, on its images and older ones."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None,
        settings: DaflConfig | ZsktConfig | DfqConfig,
        space: PixelSpace,
    ) -> None:
        self.teacher, self.settings, self.space = teacher, settings, space
        self._student = None if student is None else ShadowStudent(student, teacher, settings, space)
        self._device = next(teacher.parameters()).device

    def run(self, wanted: int, on_step: OnStep) -> SynthesisedImages:
        """`wanted` images, collected evenly over the later steps."""
        settings = self.settings
        generator = Generator(settings.latent, settings.width, self.space.shape).to(self._device)
        optimizer = torch.optim.Adam(generator.parameters(), settings.learning_rate, betas=(0.5, 0.999))
        rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps, 0.1 * settings.learning_rate)
        pool, kept = ImagePool(self.space.shape, _POOL), Collector(wanted)
        first = int(settings.collect_from * settings.steps)
        for step in range(settings.steps):
            pixels, choices, losses = self._step(generator, optimizer)
            rate.step()
            if self._student is not None:
                pool.add(pixels)
                losses["student"] = self._student.learn(pixels, pool, settings.student_steps)
            if step >= first:
                due = math.ceil(wanted * (step + 1 - first) / (settings.steps - first)) - kept.have
                self._collect(generator, kept, due, (pixels, choices), step + 1, losses)
            on_step(kept.have, losses)
        return kept.all()

    def terms(self, seen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of normalised images that have a weight, and the teacher's logits."""
        settings = self.settings
        head = (settings.head or True) if settings.activation else False
        asked = {"statistics": settings.batch_norm > 0, "layer_norms": settings.layer_norm > 0}
        with Inside(self.teacher, **asked, head=head) as inside:
            with in_precision(settings.precision, self._device):
                logits = self.teacher(seen).float()
            terms = {}
            if settings.batch_norm:
                terms["batch_norm"] = inside.distance()
            if settings.layer_norm:
                terms["layer_norm"] = inside.token_distance()
            if settings.activation:
                assert inside.head_input is not None
                terms["activation"] = -inside.head_input.abs().mean()
        if settings.one_hot:
            terms["one_hot"] = functional.cross_entropy(logits, logits.argmax(-1))
        if settings.balance:
            terms["balance"] = class_balance(logits)
        if settings.adversarial:
            assert self._student is not None
            terms["adversarial"] = -kl(self._student.logits(seen), logits).mean()
        if settings.total_variation:
            terms["total_variation"] = total_variation(seen)
        if settings.pixel_statistics:
            terms["pixel_statistics"] = pixel_statistics(seen)
        return terms, logits

    def _step(self, generator: Generator, optimizer: torch.optim.Optimizer) -> tuple[Tensor, Tensor, dict[str, float]]:
        pixels = self._drawn(generator)
        terms, logits = self.terms(self.space.seen(pixels))
        optimizer.zero_grad(set_to_none=True)
        total(self.settings, terms).backward()
        optimizer.step()
        return pixels.detach(), logits.argmax(-1), noted(terms)

    def _drawn(self, generator: Generator) -> Tensor:
        latents = torch.randn(self.settings.batch_size, self.settings.latent, device=self._device)
        with in_precision(self.settings.precision, self._device):
            return generator(latents).float()

    @torch.no_grad()
    def _collect(
        self,
        generator: Generator,
        kept: Collector,
        due: int,
        newest: tuple[Tensor, Tensor],
        step: int,
        losses: dict[str, float],
    ) -> None:
        """Keeps `due` images: those of this step, and further ones of the same generator where these are too few."""
        pixels, choices = newest
        while due > 0:
            rows = min(due, len(pixels))
            kept.add(pixels[:rows], choices[:rows], step, losses)
            due -= rows
            if due > 0:
                pixels = self._drawn(generator)
                choices = self.teacher(self.space.seen(pixels)).argmax(-1)
