"""Frozen dataclasses of tensors, which move as one."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

__all__ = ["OfTensors"]


class OfTensors:
    """Base of a frozen dataclass whose fields are tensors, other such (or tuples of them), and what has no device."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with `change` of each tensor."""
        changed: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
            elif isinstance(value, OfTensors):
                changed[entry.name] = value.each(change)
            elif isinstance(value, tuple) and value and all(isinstance(one, OfTensors) for one in value):
                changed[entry.name] = tuple(one.each(change) for one in value)
        return replace(self, **changed)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in memory from which a GPU copies by itself."""
        return self.each(Tensor.pin_memory)
