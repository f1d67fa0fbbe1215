"""Attention within the borders of sequences that lie in one row: torch's kernel, as an attention of transformers.

No mask is made, and no token of another sequence is looked at. CUDA, 16-bit types.
"""

from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["NAME", "register"]

NAME = "kdcore_varlen"
"""Of this attention, as transformers knows it."""


def register() -> None:
    """Makes transformers know this attention as NAME; it makes no mask for one whose masks it does not know."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """`query` [1, H, T, D], `key` and `value` [1, H or fewer, T, D]; returns [1, T, H, D].

    Raises ConfigError for what the kernel cannot do, by the name that transformers gives it.
    """
    from torch.nn.attention.varlen import varlen_attn

    unable = [name for name in ("softcap", "s_aux", "position_bias", "dropout") if _asked(others.get(name))]
    if unable or cu_seq_lens_q is None or attention_mask is not None:
        raise ConfigError(f"attention by borders has no {', '.join(unable) or 'masks, and needs borders'}")
    out = varlen_attn(
        _row(query),
        _row(key),
        _row(value),
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None], None


def _asked(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and value == 0.0)


def _row(states: Tensor) -> Tensor:
    """[T, H, D] of [1, H, T, D], in the autocast type where rotations made float32 of it."""
    kind = states.device.type
    if states.dtype == torch.float32 and torch.is_autocast_enabled(kind):
        states = states.to(torch.get_autocast_dtype(kind))
    return states[0].transpose(0, 1).contiguous()
