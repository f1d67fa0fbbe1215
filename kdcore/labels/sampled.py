"""Codec `sampled`: D independent draws with replacement, counts kept exactly (RS-KD, arXiv 2503.16870).

Unbiased with variance p (1 - p) / D a class. `threshold` reaches the same variance with about two thirds of the
entries; this codec is here because users will compare.
"""

from dataclasses import dataclass

import numpy as np

from kdcore.labels.counts import CountsCodec
from kdcore.labels.sampling import uniforms

__all__ = ["SampledCodec"]


@dataclass(frozen=True)
class SampledCodec(CountsCodec):
    """D independent points."""

    @property
    def name(self) -> str:
        """`sampled`."""
        return "sampled"

    @staticmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        """D sorted uniform numbers, float64 [N, D]."""
        return np.sort(uniforms(seeds, draws), axis=1)
