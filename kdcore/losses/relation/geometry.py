"""The geometry of a batch: its samples as vectors, how far apart they are, how alike, at which angles."""

import math

import torch
from torch import Tensor

from kdcore.losses.numerics import unit, wide

__all__ = ["angles", "cosines", "distances", "relative", "rows", "width"]


def rows(features: Tensor) -> Tensor:
    """One vector a sample, [B, D] in float32 or float64, of features [B, ...]."""
    return wide(features).flatten(1)


def width(shape: tuple[int, ...]) -> tuple[int]:
    """The shape of `rows`, without the batch, of features of this shape."""
    return (math.prod(shape),)


def distances(vectors: Tensor) -> Tensor:
    """||x_i - x_j||, [B, B] of [B, D]; two that are equal have distance 0 and no gradient.

    Differences are taken one by one: a Gram matrix would lose the small ones to rounding.
    """
    return torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")


def relative(lengths: Tensor) -> Tensor:
    """Lengths [B, B] in units of the mean of those above 0; all 0 stay so."""
    mean = lengths.sum() / (lengths > 0).sum().clamp(min=1)
    return lengths / torch.where(mean > 0, mean, 1.0)


def cosines(vectors: Tensor) -> Tensor:
    """cos(x_i, x_j), [B, B] of [B, D]; 0 where a vector is 0."""
    directions = unit(vectors)
    return directions @ directions.mT


def angles(vectors: Tensor) -> Tensor:
    """[B, B, B] of [B, D]: at j, i, k the cosine of the angle at x_j between x_i and x_k; 0 where two are equal."""
    edges = unit(vectors - vectors[:, None])
    return edges @ edges.mT
