"""Transformers models: from safetensors alone, with every weight accounted for, or initialised."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from kdcore.errors import ConfigError
from kdcore.models.tokenizer import valid_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load_safetensors_model(auto_class: Any, path: str, **options: Any) -> Any:
    """`auto_class.from_pretrained(path, **options)`, which must find each weight in a safetensors file.

    Raises ConfigError for files that are missing, pickled, or do not fit the architecture.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one bar a replica would tear the log apart
    _refuse_pickles(path)
    try:
        model, found = auto_class.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"A model must load from its config.json and safetensors; '{path}' does not: {error}. "
            "Check the path and the revision; a hub name needs the network."
        ) from error
    bad = {name: sorted(map(str, found[name])) for name in ("missing_keys", "mismatched_keys") if found.get(name)}
    if bad:  # transformers would go on with random weights
        raise ConfigError(f"Every weight must be in the files of '{path}'; they leave open {bad}. Export it again.")
    return model


def _refuse_pickles(path: str) -> None:
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    held = f"only pickled weights {pickles}, which can run code when loaded" if pickles else "no weights"
    raise ConfigError(
        f"Weights are loaded from safetensors alone; '{path}' holds {held}. Convert them: load them where you trust "
        "them, then model.save_pretrained(directory)."
    )


def initialise_model(
    auto_class: Any, what: str, architecture: dict[str, Any], tokenizer: PreTrainedTokenizerBase, **settings: Any
) -> Any:
    """`auto_class.from_config` of an architecture for the ids of a tokenizer; weights from torch's global seed.

    `settings` are keys of the config beside those of `architecture`. Raises ConfigError for an architecture that is
    none, or a key that it does not have, naming `what` it should be and the nearest key.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if "model_type" not in architecture:
        raise ConfigError(f"`architecture` needs `model_type` (such as llama), got {sorted(architecture)}")
    settings = {
        "vocab_size": valid_vocabulary(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **settings,
        **architecture,
    }
    try:
        made = AutoConfig.for_model(**settings)
        model = auto_class.from_config(made)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ConfigError(f"`architecture` must be settings of {what} of transformers: {error}") from error
    refuse_unknown_keys(made, architecture, "architecture")
    return model


def refuse_unknown_keys(config: Any, given: dict[str, Any], setting: str) -> None:
    """ConfigError for a key of `given`, the value of `setting`, that configs of this class do not have.

    Names the nearest one.
    """
    # A transformers config takes any key at all, so a misspelt one would silently leave the default.
    known = set(type(config)().to_dict()) | set(type(config).attribute_map) | {"model_type", "attn_implementation"}
    for key in given.keys() - known:
        near = difflib.get_close_matches(key, sorted(known), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"`{setting}` of model_type '{config.model_type}' has no setting '{key}'{hint}")
