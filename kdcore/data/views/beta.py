"""The distribution of a mix's share, Beta(alpha, alpha), over equal steps of [0, 1]."""

from functools import lru_cache

import numpy as np

__all__ = ["beta_edges"]

_NODES = 24


@lru_cache(maxsize=16)
def beta_edges(alpha: float, steps: int) -> np.ndarray:
    """The distribution's function at 1/steps .. (steps - 1)/steps, float64 [steps - 1]; `steps` is even.

    With t = x^alpha the density x^(a-1) (1-x)^(a-1) dx becomes (1-x)^(a-1) dt / a, which is smooth up to x = 1/2 for
    every alpha: Gauss-Legendre on each step. The other half is its mirror image.
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    edges = (np.arange(steps // 2 + 1) / steps) ** alpha
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    x = (middle[:, None] + half[:, None] * nodes) ** (1 / alpha)
    pieces = half * ((1 - x) ** (alpha - 1) @ weights)
    lower = np.cumsum(pieces) / (2 * pieces.sum())
    return np.concatenate([lower, 1 - lower[-2::-1]])
