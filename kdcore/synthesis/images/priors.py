"""What is known of images whatever they show: neighbours are alike, and pixels have the mean and variance of `data`."""

from torch import Tensor

__all__ = ["l2", "pixel_statistics", "total_variation"]


def total_variation(seen: Tensor) -> Tensor:
    """Mean absolute difference of neighbours in images [B, C, H, W]: across, down and along both diagonals.

    DeepInversion (arXiv:1912.08795) adds up norms of the four differences; means make the weight independent of the
    images' size and number.
    """
    across = seen[..., :, 1:] - seen[..., :, :-1]
    down = seen[..., 1:, :] - seen[..., :-1, :]
    falling = seen[..., 1:, 1:] - seen[..., :-1, :-1]
    rising = seen[..., 1:, :-1] - seen[..., :-1, 1:]
    return across.abs().mean() + down.abs().mean() + falling.abs().mean() + rising.abs().mean()


def l2(seen: Tensor) -> Tensor:
    """Mean square of normalised pixels."""
    return seen.square().mean()


def pixel_statistics(seen: Tensor) -> Tensor:
    """Distance of the channels' means from 0 and variances from 1: that is what `data.mean` and `data.std` say."""
    mean, variance = seen.mean((0, 2, 3)), seen.var((0, 2, 3), correction=0)
    return mean.norm() + (variance - 1).norm()
