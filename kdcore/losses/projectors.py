"""From the student's features to the shape of the teacher's: small modules that are trained and thrown away."""

from torch import Tensor, nn
from torch.nn import functional

from kdcore.errors import ConfigError

__all__ = ["same_size", "spatial_projector", "vector_projector"]


def vector_projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    """Linear, features [B, ..., D] to [B, ..., D']; nothing where the widths are equal already."""
    return nn.Identity() if ours[-1] == theirs[-1] else nn.Linear(ours[-1], theirs[-1])


def spatial_projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    """1 x 1 convolution and BatchNorm, maps (C, H, W) to (C', H, W). ConfigError for what are no maps."""
    for shape in (ours, theirs):
        if len(shape) != 3:
            raise ConfigError(
                f"this loss compares feature maps [B, C, H, W], but a tapped layer gives {['B', *shape]}: set `at` and "
                "`teacher_at` to convolutional layers"
            )
    return nn.Sequential(nn.Conv2d(ours[0], theirs[0], 1, bias=False), nn.BatchNorm2d(theirs[0]))


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, C, H, W] of both, the larger one averaged down to the smaller one's H x W."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return functional.adaptive_avg_pool2d(student, size), functional.adaptive_avg_pool2d(teacher, size)
