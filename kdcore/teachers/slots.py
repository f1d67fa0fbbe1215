"""What a causal language model remembers of many texts at once, each at a place of its own: texts come and go by slot.

The caches that come with transformers hold texts that are equally long. Here a slot that is free takes the next text at
once, so that no text waits for a longer one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import TeacherError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["SlotMemory", "check_memory"]

_KINDS = ("full_attention", "sliding_attention")


@dataclass
class _Places:
    """Where each slot's next token goes, int64 [n], one more than the largest of them, and whether all are the same."""

    at: Tensor
    top: int = 0
    level: bool = False
    slots: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.slots = torch.arange(len(self.at), device=self.at.device)


class _Layer:
    """Keys and values [slots, heads, length, width] of one layer, as transformers' Cache asks for them."""

    is_compileable = is_sliding = is_croppable = False

    def __init__(self, slots: int, length: int) -> None:
        self._slots, self._length = slots, length
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.places = _Places(torch.empty(0, dtype=torch.long))

    @property
    def is_initialized(self) -> bool:
        return self.keys is not None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put [n, heads, 1, width] at each slot's place; all places up to the last that is used."""
        if self.keys is None or self.values is None:
            self.keys, self.values = (
                states.new_zeros(self._slots, states.shape[1], self._length, states.shape[3])
                for states in (key_states, value_states)
            )
        slots, at, top = self.places.slots, self.places.at, self.places.top
        self.keys[slots, :, at] = key_states[:, :, 0]
        self.values[slots, :, at] = value_states[:, :, 0]
        return self.keys[:, :, :top], self.values[:, :, :top]

    def keep(self, slots: Tensor) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[slots], self.values[slots]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.places.top, 0

    def get_seq_length(self) -> int:
        return self.places.top - 1 if self.places.level else 0

    def get_max_length(self) -> int:
        return self._length


class SlotMemory:
    """The memory of `model` for `slots` texts of up to `length` tokens; nothing is taken before the first step.

    The model is one that `check_memory` lets pass.
    """

    def __init__(self, model: PreTrainedModel, slots: int, length: int) -> None:
        from transformers.cache_utils import Cache, CacheLayerMixin

        CacheLayerMixin.register(_Layer)  # it is one in all but name, which would have to be imported above
        config = model.config.get_text_config()
        self._model, self._mask = model, _mask_kind(model)
        self._layers = [_Layer(slots, length) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=self._layers)  # pyright: ignore[reportArgumentType]  what it needs of a layer is there

    def keep(self, slots: np.ndarray) -> None:
        """Let all slots go but these, int64 [n], in this order."""
        kept = torch.from_numpy(slots).to(self._model.device)
        for layer in self._layers:
            layer.keep(kept)

    def step(self, tokens: np.ndarray, positions: np.ndarray) -> Tensor:
        """One forward pass over a token int64 [n] in each slot, at `positions` int64 [n]; logits [n, rows of the head].

        What a slot held beyond its position is forgotten.
        """
        device = self._model.device
        top, level = int(positions.max()) + 1, bool((positions == positions[0]).all())
        places = _Places(torch.from_numpy(positions).to(device), top, level)
        for layer in self._layers:
            layer.places = places
        answer = self._model(
            input_ids=torch.from_numpy(tokens).to(device)[:, None],
            # Texts of one length see all there is, and attention without a mask is faster by far.
            attention_mask=None if level else self._seen(places),
            position_ids=places.at[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        if not all(layer.is_initialized for layer in self._layers):
            raise _other_memory(self._model.config.model_type, "a layer without keys and values")
        return answer.logits[:, 0]

    def _seen(self, places: _Places) -> Tensor:
        """Which places each slot looks at, [n, 1, 1, top]."""
        seen = (torch.arange(places.top, device=places.at.device) <= places.at[:, None])[:, None, None]
        if self._mask == "boolean":
            return seen
        dtype = self._model.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def _mask_kind(model: PreTrainedModel) -> str:
    """How the attention takes a mask of its own: True where it looks, or numbers that are added."""
    kind = str(getattr(model.config, "_attn_implementation", ""))
    if kind not in ("sdpa", "eager"):
        raise TeacherError(
            f"texts are written with attention 'sdpa' or 'eager', the teacher was loaded with '{kind}': each text of a "
            "step is at a place of its own, which needs a mask"
        )
    return "boolean" if kind == "sdpa" else "added"


def check_memory(model: PreTrainedModel, length: int) -> None:
    """TeacherError for a model that remembers otherwise than by keys and values of all of a text's `length` tokens.

    Also for one that is not told where in its text a token is.
    """
    _mask_kind(model)
    config: Any = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ()
    others = sorted(set(kinds) - set(_KINDS))
    if others:
        raise _other_memory(config.model_type, f"layers of {others}")
    # MPT's bias is of how far tokens are apart, wherever they are; BLOOM and Falcon compute theirs of a mask of texts.
    told = "position_ids" in signature(model.forward).parameters or config.model_type == "mpt"
    if not told or getattr(config, "alibi", False):
        raise _other_memory(config.model_type, "positions that cannot be told for each text")
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    if "local" in (getattr(config, "attention_layers", None) or ()):  # GPT-Neo's
        window, slides = config.window_size, True
    if window is not None and slides and length > window:
        raise TeacherError(
            f"a text must be within the teacher's sliding window of {window} tokens, {length} may be written: lower "
            "synthesis.max_tokens"
        )


def _other_memory(model_type: str, what: str) -> TeacherError:
    return TeacherError(
        f"texts are written by models that remember by keys and values of all tokens; '{model_type}' has {what}: let "
        "another teacher write, or label texts that are there (`data`)"
    )
