"""Codec `threshold`, the default: unbiased labels with the least variance for their size.

Let tau = 1 / D. A class of probability p_i >= tau is always kept, one below with probability p_i / tau, and every
weight is a whole multiple of tau, rounded so that its expectation is p_i. All of this is one systematic sample: D
points at equal distances, (u + k) / D for k = 0 .. D - 1 with one uniform u a label, thrown on a line on which class i
owns a piece of length p_i. A piece of length p holds floor(p / tau) or one more point, p / tau in the mean; there are D
points in all, so the weights sum to one.

Why one threshold for all tokens: keep class i of token j with probability q_ij and weight p_ij / q_ij, which is
unbiased. The variance is sum p^2 (1 / q - 1), the number of entries sum q. At the least variance for a number of
entries, d/dq [p^2 / q + lambda q] = 0, so q = min(1, p / sqrt(lambda)): every token shares tau = sqrt(lambda), which
spends entries where the teacher is unsure and next to none where it is sure (threshold sampling: Duffield, Lund and
Thorup 2005; systematic selection: Madow 1949). Rounding the kept values to multiples of tau as well adds f (1 - f)
tau^2 a class, f the fraction of p / tau, and takes the values down from a byte each to a count that mostly is one;
measured on real teachers, finer values (tau / 2, tau / 4) need more bytes at equal variance.
"""

from dataclasses import dataclass

import numpy as np

from kdcore.labels.counts import CountsCodec
from kdcore.labels.sampling import uniforms

__all__ = ["ThresholdCodec"]


@dataclass(frozen=True)
class ThresholdCodec(CountsCodec):
    """D points at equal distances from one random start."""

    @property
    def name(self) -> str:
        """`threshold`."""
        return "threshold"

    @staticmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        """(u + k) / D, float64 [N, D]."""
        return (uniforms(seeds, 1) + np.arange(draws)) / draws
