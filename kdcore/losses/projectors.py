"""From the student's features to the shape of the teacher's: small modules that are trained and thrown away."""

from torch import Tensor, nn
from torch.nn import functional

from kdcore.errors import ConfigError
from kdcore.losses.numerics import wide

__all__ = [
    "ChannelNorm",
    "VectorNorm",
    "pooled",
    "pooled_width",
    "project",
    "projector",
    "require_maps",
    "require_places",
    "same_size",
    "spatial_projector",
    "vector_projector",
]


class ChannelNorm(nn.BatchNorm2d):
    """BatchNorm of maps [B, C, H, W] that takes its running statistics where a batch has one value a channel.

    In the type of these statistics, which DeepSpeed keeps in float32 beside parameters in bfloat16.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps of the same shape and type."""
        assert self.running_mean is not None
        assert self.momentum is not None
        kind = self.running_mean.dtype
        counts = self.training and input.numel() > self.num_features
        weight, bias = (one if one is None else one.to(kind) for one in (self.weight, self.bias))
        normal = functional.batch_norm(
            input.to(kind), self.running_mean, self.running_var, weight, bias, counts, self.momentum, self.eps
        )
        return normal.to(input.dtype)


class VectorNorm(ChannelNorm):
    """The same of vectors [B, D]."""

    def forward(self, input: Tensor) -> Tensor:
        """Vectors of the same shape."""
        return super().forward(input[:, :, None, None]).flatten(1)


def vector_projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    """Linear, features [B, ..., D] to [B, ..., D']; nothing where the widths are equal already."""
    return nn.Identity() if ours[-1] == theirs[-1] else nn.Linear(ours[-1], theirs[-1])


def require_places(ours: tuple[int, ...], theirs: tuple[int, ...]) -> None:
    """ConfigError unless both shapes are of maps, of vectors, or of equally many tokens."""
    if len(ours) != len(theirs) or (len(ours) == 2 and ours[0] != theirs[0]):
        raise ConfigError(
            f"this loss compares features place by place, but the tapped layers give {['B', *ours]} and "
            f"{['B', *theirs]}: set `at` and `teacher_at` to layers of one kind, or `pool` for one vector of tokens"
        )


def require_maps(*shapes: tuple[int, ...]) -> None:
    """ConfigError unless all shapes are of maps, (C, H, W)."""
    for shape in shapes:
        if len(shape) != 3:
            raise ConfigError(
                f"this loss compares feature maps [B, C, H, W], but a tapped layer gives {['B', *shape]}: set `at` and "
                "`teacher_at` to convolutional layers; tokens have losses of their own (docs/losses.md)"
            )


def spatial_projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    """1 x 1 convolution and BatchNorm, maps (C, H, W) to (C', H, W). ConfigError for what are no maps."""
    require_maps(ours, theirs)
    return nn.Sequential(nn.Conv2d(ours[0], theirs[0], 1, bias=False), ChannelNorm(theirs[0]))


def projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
    """The spatial one for maps, the one for vectors for vectors and tokens; ConfigError for what does not match."""
    require_places(ours, theirs)
    return spatial_projector(ours, theirs) if len(ours) == 3 else vector_projector(ours, theirs)


def project(module: nn.Module, features: Tensor) -> Tensor:
    """What a projector makes of features, in its own dtype on the way and in `wide` after it."""
    parameter = next(module.parameters(), None)
    return wide(module(features if parameter is None else features.to(parameter.dtype)))


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, C, H, W] of both, the larger one averaged down to the smaller one's H x W."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return functional.adaptive_avg_pool2d(student, size), functional.adaptive_avg_pool2d(teacher, size)


def pooled(features: Tensor) -> Tensor:
    """Vectors [B, D], in `wide`: as they are, maps [B, C, H, W] averaged over places."""
    return wide(features).mean((2, 3)) if features.dim() == 4 else wide(features)


def pooled_width(shape: tuple[int, ...]) -> int:
    """The width of `pooled` features of a shape without the batch."""
    return shape[0] if len(shape) == 3 else shape[-1]
