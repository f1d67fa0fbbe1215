"""Layers by the module paths of a recipe, for losses that look into a network or run it again."""

from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["head_weight", "layer_of"]


def layer_of(model: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`, also where the path leaves out a wrapper's only child; None where there is none."""
    while True:
        modules = dict(model.named_modules(remove_duplicate=False))
        if path in modules:
            return modules[path]
        children = list(model.children())
        if len(children) != 1:
            return None
        model = children[0]


def head_weight(model: nn.Module, path: str) -> Tensor:
    """The weight [K, C] of a linear layer or 1 x 1 convolution; ConfigError where there is none at `path`."""
    weight = getattr(layer_of(model, path), "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() < 2 or weight.shape[2:].numel() != 1:
        raise ConfigError(
            f"a head must be a linear layer or a 1 x 1 convolution, and '{path}' is none of this model: name the layer "
            "that makes logits of pooled features"
        )
    return weight.flatten(1)
