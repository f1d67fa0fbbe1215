"""SSKD: which image a turned view is of, and what the teacher thinks of turned views.

Xu, Liu, Li and Loy, "Knowledge Distillation Meets Self-Supervision" (arXiv 2006.07114), as in the authors' code: the
two terms that stand beside cross-entropy and soft targets, which are losses of their own. There the teacher's head is
trained in a run before; here beside the student, its own loss added, and with a gradient for it alone.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kdcore.config.losses.relation import SelfSupervisionTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import project
from kdcore.losses.relation.geometry import rows
from kdcore.taps import Taps

__all__ = ["SelfSupervision", "best_known", "turned", "view_divergence"]


def turned(images: Tensor) -> Tensor:
    """[3 B, C, S, S]: each image [C, S, S] by 90, 180 and 270 degrees, views of one image side by side.

    ConfigError for images that are not square.
    """
    if images.shape[2] != images.shape[3]:
        raise ConfigError(f"sskd turns images, which must be square, got {list(images.shape[2:])}: see data.size")
    return torch.stack([images.rot90(times, (2, 3)) for times in (1, 2, 3)], 1).flatten(0, 1)


def best_known(scores: Tensor, own: Tensor, share: float) -> Tensor:
    """Rows of [N, C] that are trusted, bool [N]: those with `own` [N] first, and a share of the rest, by its rank."""
    rank = (scores > scores.gather(1, own[:, None])).sum(1)
    wrong = int((rank > 0).sum())
    kept = len(rank) - wrong + int(wrong * share)
    places = torch.empty_like(rank).scatter(0, rank.argsort(stable=True), torch.arange(len(rank), device=rank.device))
    return places < kept


def view_divergence(student: Tensor, teacher: Tensor, own: Tensor, temperature: float, share: float) -> Tensor:
    """T^2 KL(softmax(teacher / T), softmax(student / T)), the mean over the rows that the teacher knows best.

    [N, C] both, of views: logits with `own` [N] the class, or similarities to images with `own` the image.
    """
    ours, theirs = ((wide(side) / temperature).log_softmax(1) for side in (student, teacher))
    kept = best_known(teacher, own, share)
    divergences = (theirs.exp() * (theirs - ours)).sum(1)
    return temperature**2 * (divergences * kept).sum() / kept.sum().clamp(min=1)


class SelfSupervision(Method[SelfSupervisionTerm]):
    """Another pass of both networks over turned views, and a head for each on the features of one layer."""

    needs_live_teacher: ClassVar[bool] = True
    needs_one_class: ClassVar[bool] = True
    needs_pixels: ClassVar[bool] = True
    wants_autocast: ClassVar[bool] = True

    def __init__(self, term: SelfSupervisionTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.student = _head(shapes.student[term.at[0]])
        self.teacher = _head(shapes.teacher[term.teacher_paths[0]])

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        ours, theirs = self.term.at[0], self.term.teacher_paths[0]
        assert inputs.pixels is not None
        assert inputs.student_model is not None
        assert inputs.teacher_model is not None
        views = turned(inputs.pixels.detach())
        seen = _seen(inputs.student_model, ours, views)
        # Beyond the student's pass nothing is rounded to bfloat16.
        with torch.autocast(views.device.type, enabled=False):
            with torch.no_grad():
                first = next(inputs.teacher_model.parameters())
                known = _seen(inputs.teacher_model, theirs, views.to(first.device, first.dtype))
            similar = _similarities(self.student, seen[1], inputs.student[ours])
            known_similar = _similarities(self.teacher, known[1], inputs.teacher[theirs])
            return self._loss(similar, known_similar, seen[0], known[0], inputs.targets)

    def _loss(
        self, similar: Tensor, known_similar: Tensor, logits: Tensor, known_logits: Tensor, targets: Tensor
    ) -> Tensor:
        term = self.term
        image = torch.arange(len(targets), device=targets.device).repeat_interleave(3)
        contrast = view_divergence(
            similar, known_similar.detach(), image, term.contrast_temperature, term.contrast_share
        )
        judgement = view_divergence(
            logits, known_logits, targets.repeat_interleave(3), term.view_temperature, term.view_share
        )
        heads = cross_entropy(known_similar, image)
        return term.contrast_weight * contrast + term.view_weight * judgement + heads


def _head(shape: tuple[int, ...]) -> nn.Module:
    width = torch.Size(shape).numel()
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _seen(model: nn.Module, path: str, views: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, C] and the features at `path`."""
    with Taps(model, [path]) as taps:
        output = model(views)
    return getattr(output, "logits", output), taps.outputs[path]


def _similarities(head: nn.Module, views: Tensor, images: Tensor) -> Tensor:
    """Cosines [3 B, B]."""
    return unit(project(head, rows(views))) @ unit(project(head, rows(images))).mT
