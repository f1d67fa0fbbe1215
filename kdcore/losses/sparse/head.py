"""How a model makes logits of its head's outputs, by the names that transformers models give it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdcore.errors import ConfigError

__all__ = ["LogitRules", "logit_rules"]

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_DIVISORS = ("logits_scaling",)
# Their configuration has a name of the above, but their logits do not follow it.
_UNUSED = {"mpt": ("logit_scale",)}


@dataclass(frozen=True)
class LogitRules:
    """z = softcap tanh(scale u / softcap) of the head's outputs u; scale u without `softcap`."""

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, outputs: Tensor) -> Tensor:
        """The logits; overwrites `outputs`."""
        if self.scale != 1:
            outputs.mul_(self.scale)
        if self.softcap is not None:
            outputs.div_(self.softcap).tanh_().mul_(self.softcap)
        return outputs

    def slope(self, logits: Tensor) -> Tensor | float:
        """d z / d u, of logits that `apply` made: a tensor like them, or one number for all."""
        if self.softcap is None:
            return self.scale
        return torch.div(logits, self.softcap).square_().neg_().add_(1).mul_(self.scale)


def logit_rules(config: Any) -> LogitRules:
    """What a configuration of transformers (or None) says of its logits.

    Raises ConfigError where a value is no positive number.
    """
    if config is None:
        return LogitRules()
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    values = {name: _value(config, name) for name in (*_CAPS, *_FACTORS, *_DIVISORS)}
    caps = [values[name] for name in _CAPS if values[name]]
    scale = 1.0
    for name in _FACTORS:
        scale *= values[name] or 1.0
    for name in _DIVISORS:
        scale /= values[name] or 1.0
    return LogitRules(scale, caps[0] if caps else None)


def _value(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    if value is None or name in _UNUSED.get(getattr(config, "model_type", ""), ()):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ConfigError(
            f"a student whose logits are scaled or capped after the head needs a positive number for it, got "
            f"{name}={value} in its configuration; choose another student"
        )
    return float(value)
