"""Knowledge review: deep features of the student are fused, level by level, into those that face the teacher's.

Chen et al., "Distilling Knowledge via Knowledge Review" (arXiv 2104.09044): attention-based fusion and the hierarchical
context loss, as in the authors' code. It lets the weight rise over the first epochs: `warmup`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.losses.feature_later import ReviewTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import ChannelNorm

__all__ = ["Fusion", "Review", "hierarchical_context"]

POOLED_SIZES = (4, 2, 1)


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of maps [B, C, H, W] of one shape, and of both averaged to 4 x 4, 2 x 2 and 1 x 1.

    These count a half, a quarter, ... of the first, sizes that are not below H are left out; the weighted mean.
    """
    student, teacher = wide(student), wide(teacher)
    loss, weight, total = (student - teacher).square().mean(), 1.0, 1.0
    for size in POOLED_SIZES:
        if size < student.shape[2]:
            ours, theirs = (functional.adaptive_avg_pool2d(maps, size) for maps in (student, teacher))
            weight /= 2
            total += weight
            loss = loss + weight * (ours - theirs).square().mean()
    return loss / total


class Fusion(nn.Module):
    """One level: maps of `channels` meet those of the level below it, and give maps of the teacher's shape."""

    def __init__(self, channels: int, width: int, theirs: tuple[int, ...], deepest: bool) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), ChannelNorm(width))
        self.leave = nn.Sequential(nn.Conv2d(width, theirs[0], 3, padding=1, bias=False), ChannelNorm(theirs[0]))
        self.attention = None if deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        self.size = theirs[1:]
        for convolution in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(convolution.weight, a=1)  # pyright: ignore[reportArgumentType]

    def forward(self, maps: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """For the loss, and for the next level; `deeper` is the latter of the level before, None at the deepest."""
        mixed = self.enter(maps)
        if self.attention is not None and deeper is not None:
            deeper = functional.interpolate(deeper, mixed.shape[2:])
            shares = self.attention(torch.cat([mixed, deeper], 1))
            mixed = mixed * shares[:, :1] + deeper * shares[:, 1:]
        if mixed.shape[2:] != self.size:
            mixed = functional.interpolate(mixed, self.size)
        return self.leave(mixed), mixed


def _as_maps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Pooled features [C] are maps of 1 x 1."""
    if len(shape) not in (1, 3):
        raise ConfigError(
            f"knowledge review needs maps [B, C, H, W] or pooled features [B, C], but a tapped layer gives "
            f"{['B', *shape]}: set `at` and `teacher_at` to convolutional layers"
        )
    return shape if len(shape) == 3 else (*shape, 1, 1)


class Review(Method[ReviewTerm]):
    """A fusion for each pair of layers, which `at` names from shallow to deep, and the sum of their losses."""

    def __init__(self, term: ReviewTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        ours = [_as_maps(shapes.student[path])[0] for path in term.at]
        theirs = [_as_maps(shapes.teacher[path]) for path in term.teacher_paths]
        width = min(term.width, ours[-1])
        self.fusions = nn.ModuleList(
            Fusion(channels, width, shape, deepest=number == len(ours) - 1)
            for number, (channels, shape) in enumerate(zip(ours, theirs, strict=True))
        )

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        losses: list[Tensor] = []
        deeper: Tensor | None = None
        levels = zip(self.fusions, self.term.at, self.term.teacher_paths, strict=True)
        for fusion, ours, theirs in reversed(list(levels)):
            student, teacher = inputs.student[ours], inputs.teacher[theirs]
            if student.dim() == 2:
                student = student[:, :, None, None]
            fused, deeper = fusion(student.to(next(fusion.parameters()).dtype), deeper)
            losses.append(hierarchical_context(fused, teacher.reshape(fused.shape)))
        return sum(losses[1:], losses[0])
