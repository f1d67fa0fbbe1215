"""Transformers models from safetensors alone, with every weight accounted for."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from kdcore.errors import ConfigError

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
