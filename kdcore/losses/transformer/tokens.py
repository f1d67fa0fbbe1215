"""Means over the tokens of sequences of different length."""

from torch import Tensor

__all__ = ["sequences", "token_mean"]


def sequences(states: Tensor) -> Tensor:
    """States [B, L, D]; of vectors [B, D], a sequence of one."""
    return states if states.ndim == 3 else states[:, None]


def token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over samples of the mean over each sample's tokens, a scalar.

    `values` [B, L]; `mask` [B, L] is true for tokens, false for padding, None where there is none. A sample without
    tokens counts zero.
    """
    if mask is None:
        return values.mean()
    held = mask.to(values.dtype)
    return ((values * held).sum(1) / held.sum(1).clamp(min=1.0)).mean()
