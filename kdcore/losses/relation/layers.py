"""Layers of one network in their order: what comes to both ends of a relation between them."""

from torch import Tensor, nn

from kdcore.config.losses.relation import LayersTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.numerics import wide

__all__ = ["in_order", "require_equal_channels", "same_grid"]


def in_order(term: LayersTerm, inputs: LossInputs) -> tuple[list[Tensor], list[Tensor]]:
    """The student's features and the teacher's, in the order of the settings."""
    return [inputs.student[path] for path in term.at], [inputs.teacher[path] for path in term.teacher_paths]


def require_equal_channels(term: LayersTerm, shapes: Shapes) -> None:
    """ConfigError unless both networks have maps of as many channels at each pair of places."""
    for ours, theirs in zip(term.at, term.teacher_paths, strict=True):
        one, other = shapes.student[ours], shapes.teacher[theirs]
        if len(one) != 3 or len(other) != 3 or one[0] != other[0]:
            raise ConfigError(
                f"this loss compares channels one by one: `{ours}` of the student gives {['B', *one]} and `{theirs}` "
                f"of the teacher {['B', *other]}; choose layers that give [B, C, H, W] with the same C, or a loss that "
                "projects (rkd, similarity_preserving, ickd)"
            )


def same_grid(first: Tensor, second: Tensor, pool: type[nn.Module]) -> tuple[Tensor, Tensor]:
    """Maps [B, C, H, W] of two layers as [B, C, P], pooled to the smaller H and W of both."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    pooled = pool(size)
    return pooled(wide(first)).flatten(2), pooled(wide(second)).flatten(2)
