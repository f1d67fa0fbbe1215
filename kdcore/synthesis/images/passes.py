"""Forward passes in the precision that was asked for."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["in_precision"]


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 where the device's operators have it, or float32 as it is."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)
