"""The call of a classifier, and what it must give."""

from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["logits_of"]


def logits_of(network: nn.Module, given: Tensor, whose: str) -> Tensor:
    """Logits [B, C] of B samples; ConfigError for anything else, saying `whose` network it is."""
    found = network(given)
    if isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(given):
        return found
    what = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"{type(found).__name__}"
    raise ConfigError(
        f"{whose} must return logits [{len(given)}, classes] of {len(given)} samples, got {what}: likely it has "
        "heads for training alone (torchvision's googlenet and inception_v3: kwargs {aux_logits: false, init_weights: "
        "true}), or one that returns more than logits: wrap it"
    )
