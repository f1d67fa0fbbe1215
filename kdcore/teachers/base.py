"""What every teacher answers, whatever it labels."""

from typing import Any, Protocol

import torch
from torch import nn

from kdcore.config.data import Kind
from kdcore.config.models import DType
from kdcore.identity import digest_json, digest_state

DTYPES: dict[DType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""By their names in a recipe."""


class Teacher(Protocol):
    """A model that labels."""

    @property
    def kind(self) -> Kind:
        """The samples it labels."""
        ...

    @property
    def num_classes(self) -> int:
        """Width of its answers: the valid vocabulary, or the classes."""
        ...

    @property
    def tokenizer(self) -> Any | None:
        """Its tokenizer; None for images."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the answers depend on: the network, its weights and its dtype, but not where it was loaded from."""
        ...


# Settings of a transformers config that say where a model came from or how it is run, not what it answers.
_NOT_THE_NETWORK = frozenset(
    {"_name_or_path", "architectures", "distributed_config", "dtype", "transformers_version", "use_cache"}
)


def network_settings(config: Any) -> dict[str, Any]:
    """The settings of a transformers config that its answers depend on, where they differ from the defaults."""
    settings = config.to_diff_dict()
    return {name: value for name, value in settings.items() if name not in _NOT_THE_NETWORK}


def model_identity(model: nn.Module, dtype: DType, network: dict[str, Any]) -> dict[str, Any]:
    """The identity of a model by content: class, digest of its settings, digest of its weights, dtype."""
    return {
        "architecture": type(model).__name__,
        "settings": digest_json(network),
        "weights": digest_state(model.state_dict()),
        "dtype": dtype,
    }


def pick_device(device: str | None) -> torch.device:
    """The device asked for; else the GPU this process was given, or the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
