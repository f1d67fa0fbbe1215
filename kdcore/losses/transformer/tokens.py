"""Means over the tokens of sequences of different length."""

from collections.abc import Sequence

from torch import Tensor

from kdcore.errors import ConfigError

__all__ = ["check_tokens", "sequences", "token_mean"]


def check_tokens(shapes: Sequence[tuple[int, ...]]) -> None:
    """ConfigError unless all shapes are vectors, (D,), or sequences, (L, D), of one length."""
    if len({len(shape) for shape in shapes}) > 1:
        raise ConfigError(
            f"tokens are compared one by one, but tapped layers give sequences beside single vectors, "
            f"{[['B', *shape] for shape in shapes]}: likely the teacher's are labels of a store, which has the first "
            "token of a text; set `tokens: first`, or training.live_teacher: true"
        )
    lengths = {shape[0] for shape in shapes if len(shape) == 2}
    if len(lengths) > 1:
        raise ConfigError(
            f"tokens are compared one by one, but tapped layers give sequences of {sorted(lengths)} tokens: likely the "
            "networks cut images into patches of different size, or one adds tokens of its own; compare `tokens: first`"
        )


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
