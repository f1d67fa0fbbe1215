"""The heads of networks, for losses that look into them."""

from torch import Tensor, nn

from kdcore.errors import ConfigError
from kdcore.taps import layer_of

__all__ = ["head_weight"]


def head_weight(model: nn.Module, path: str) -> Tensor:
    """The weight [K, C] of a linear layer or 1 x 1 convolution; ConfigError where there is none at `path`."""
    weight = getattr(layer_of(model, path), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or weight.shape[2:].numel() != 1:
        raise ConfigError(
            f"a head must be a linear layer or a 1 x 1 convolution, and '{path}' is none of this model: name the layer "
            "that makes logits of pooled features"
        )
    return weight.flatten(1)
