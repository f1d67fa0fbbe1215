"""Causal language models: from an architecture and a tokenizer, or from safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kdcore.config.models import CausalLMConfig
from kdcore.errors import ConfigError, missing_extra
from kdcore.models.pretrained import initialise_model, load_safetensors_model
from kdcore.models.tokenizer import check_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def build_causal_lm(
    config: CausalLMConfig, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A model that fits the tokenizer, in `dtype`: loaded from `path`, or initialised from `architecture`.

    The initial weights follow torch's global seed. Raises ConfigError (architecture, files) and TokenizerMismatch.
    """
    if config.path is not None:
        model = load_pretrained_lm(config.path, dtype, config.revision, config.trust_remote_code)
    else:
        model = _initialise(config.architecture, tokenizer).to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    check_tokenizer(tokenizer, model.get_input_embeddings().weight.shape[0])  # pyright: ignore
    return model


def load_pretrained_lm(
    path: str,
    dtype: torch.dtype,
    revision: str | None = None,
    trust_remote_code: bool = False,
    tensor_parallel: int = 1,
) -> PreTrainedModel:
    """A model from a directory or hub name, from safetensors only, every weight of it found.

    With `tensor_parallel` above one, every rank of the torch.distributed group, which has that many, calls this and
    reads and keeps its own share, on the device of the group.

    Raises ConfigError for files that are missing, pickled, or do not fit the architecture.
    """
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise missing_extra("transformers", "text", "A causal language model") from error
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    sharded: dict[str, Any] = {}
    if tensor_parallel > 1:
        from transformers.distributed import DistributedConfig

        _check_divisible(path, source, tensor_parallel)
        # The size, not `tp_plan="auto"` alone: that takes the size from the environment, and 1 where there is none.
        sharded = {"distributed_config": DistributedConfig(tp_size=tensor_parallel)}
    return load_safetensors_model(AutoModelForCausalLM, path, dtype=dtype, **source, **sharded)


def _check_divisible(path: str, source: dict[str, Any], ranks: int) -> None:
    """Refuses, before any weight is read, an architecture that cannot be split evenly over `ranks`."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, **source).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"A model must have a readable config.json; '{path}' has none: {error}") from error
    if not getattr(config, "base_model_tp_plan", None):
        raise ConfigError(
            f"tensor_parallel needs an architecture with a plan of how to split it; '{config.model_type}' of '{path}' "
            f"has none. Set tensor_parallel to 1, got {ranks}."
        )
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, name, None)
        if isinstance(heads, int) and heads % ranks:
            raise ConfigError(
                f"tensor_parallel must divide the heads of the model: {name} is {heads}, tensor_parallel is {ranks}. "
                f"Set tensor_parallel to a divisor of {heads}."
            )


def _initialise(architecture: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    try:
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise missing_extra("transformers", "text", "A causal language model") from error
    return initialise_model(AutoModelForCausalLM, "a causal LM", architecture, tokenizer)
