"""The draw of the next token: its odds by position, and a number in [0, 1) that picks one."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcore.config.synthesis.text import Points
from kdcore.labels.checks import check_maxima

__all__ = ["Odds", "draw"]


@dataclass(frozen=True)
class Odds:
    """Temperature and top-p, numbers or points by position (see `Points`)."""

    temperature: float | Points = 1.0
    top_p: float | Points = 1.0

    def temperatures(self, positions: np.ndarray) -> np.ndarray:
        """At each of the positions int [N] of what is written, float64 [N]."""
        return _at(self.temperature, positions)

    def shares(self, positions: np.ndarray) -> np.ndarray:
        """The top-p at each of the positions int [N], float64 [N]."""
        return _at(self.top_p, positions)


def _at(value: float | Points, positions: np.ndarray) -> np.ndarray:
    if not isinstance(value, tuple):
        return np.full(len(positions), value)
    places, values = zip(*value, strict=True)
    return np.interp(positions, places, values)


def draw(logits: Tensor, points: np.ndarray, temperatures: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The token that each point falls on, int64 [N], where a token owns a piece of [0, 1) as long as its probability.

    `logits` [N, V], `points` float64 [N] in [0, 1). Probabilities are those at `temperatures` [N], of the likeliest
    tokens that together have at least `shares` [N] of the mass. LabelError for logits that are not finite.
    """
    largest = logits.amax(1, keepdim=True)
    check_maxima(largest[:, 0], "the next tokens")
    # Wide first: what labels are computed from is not rounded, and a difference in bfloat16 is.
    masses = logits.double().sub(largest).div_(_column(temperatures, logits)).exp_()
    if (shares < 1).any():
        masses = _likeliest(masses, _column(shares, logits))
    ends = masses.cumsum(1)
    where = torch.minimum(_column(points, logits) * ends[:, -1:], torch.nextafter(ends[:, -1:], ends.new_zeros(1)))
    return torch.searchsorted(ends, where, right=True)[:, 0].cpu().numpy()


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float64)).to(like.device)[:, None]


def _likeliest(masses: Tensor, shares: Tensor) -> Tensor:
    """Masses, zero for all but the fewest likeliest tokens that have `shares` of a row's mass."""
    ordered, order = masses.sort(dim=1, descending=True, stable=True)
    before = ordered.cumsum(1) - ordered
    ordered = torch.where(before < shares * masses.sum(1, keepdim=True), ordered, 0.0)
    return torch.zeros_like(masses).scatter_(1, order, ordered)
