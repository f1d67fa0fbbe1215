"""Encoders that classify whole texts: from an architecture and a tokenizer, or from safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdcore.config.models import TextClassifierConfig
from kdcore.errors import ConfigError, missing_extra
from kdcore.models.pretrained import initialise_model, load_safetensors_model
from kdcore.models.tokenizer import check_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TokenClassifier", "build_text_classifier", "encode_texts", "stacked"]


class TokenClassifier(nn.Module):
    """A text classifier of transformers that takes all it is given as one tensor, and returns its logits alone."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        # A tokenizer may number the two parts of a pair where the network, as RoBERTa, has one type for both.
        several = getattr(model.config, "type_vocab_size", 2) > 1
        self._uses_types = several and "token_type_ids" in tokenizer.model_input_names

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, num_classes] of `tokens` int64 [B, 3, L]: ids, attention mask, token types."""
        ids, mask, types = tokens.unbind(1)
        told = {"token_type_ids": types} if self._uses_types else {}
        return self.model(input_ids=ids, attention_mask=mask, **told).logits

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """As the model has it: activations are computed again in the backward pass."""
        self.model.gradient_checkpointing_enable(**options)


def build_text_classifier(
    config: TextClassifierConfig,
    tokenizer: PreTrainedTokenizerBase,
    num_classes: int,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """A model that fits the tokenizer, in `dtype`: loaded from `path`, or initialised from `architecture`.

    The initial weights follow torch's global seed. A `path` without a head for `num_classes` is refused, as are
    pickles. Raises ConfigError and TokenizerMismatch.
    """
    try:
        from transformers import AutoModelForSequenceClassification
    except ImportError as error:
        raise missing_extra("transformers", "text", "A text classifier") from error
    auto = AutoModelForSequenceClassification
    if config.path is not None:
        model = load_safetensors_model(auto, config.path, dtype=dtype, revision=config.revision)
    else:
        model = initialise_model(auto, "an encoder", config.architecture, tokenizer, num_labels=num_classes)
        model = model.to(dtype=dtype)
    if model.config.num_labels != num_classes:
        raise ConfigError(
            f"the head must have the classes of the data: data.num_classes is {num_classes}, the model of "
            f"'{config.path or 'architecture'}' has {model.config.num_labels}"
        )
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0])
    _check_positions(model, config.max_length)
    return model


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str | None]], max_length: int
) -> dict[str, Tensor]:
    """What a model is called with for B texts or pairs: `input_ids`, `attention_mask` and the like, int64 [B, L].

    L is the longest of them, `max_length` at most; of longer ones the end is cut off, of a pair that of the longer one.
    """
    first, second = [text for text, _ in texts], [pair for _, pair in texts]
    pairs = None if all(pair is None for pair in second) else [pair or "" for pair in second]
    found: Any = tokenizer(first, pairs, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    return dict(found)


def stacked(inputs: dict[str, Tensor]) -> Tensor:
    """What `encode_texts` gives as one tensor int64 [B, 3, L]; types are 0 where the tokenizer knows none."""
    ids = inputs["input_ids"]
    return torch.stack([ids, inputs["attention_mask"], inputs.get("token_type_ids", torch.zeros_like(ids))], dim=1)


def _check_positions(model: PreTrainedModel, max_length: int) -> None:
    stated = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(stated, int):
        return
    lost = max((_unused(name, module, stated) for name, module in model.named_modules()), default=0)
    room = stated - lost
    if room < max_length:
        why = f" ({stated} in its configuration, of which the first {lost} stand for no token)" if lost else ""
        raise ConfigError(f"the model has {room} positions{why}, max_length is {max_length}: set it to {room} or less")


def _unused(name: str, module: nn.Module, stated: int) -> int:
    """Positions up to that of padding, after which those of RoBERTa and its like begin, in a table of `stated` rows."""
    padding, weight = getattr(module, "padding_idx", None), getattr(module, "weight", None)
    if name.rpartition(".")[2] != "position_embeddings" or not isinstance(weight, Tensor) or len(weight) != stated:
        return 0
    return padding + 1 if isinstance(padding, int) else 0
