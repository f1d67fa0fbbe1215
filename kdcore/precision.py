"""Whether a device computes bfloat16 natively, and what to say to a person where it does not."""

import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdcore.config.recipe import Recipe

if TYPE_CHECKING:
    import torch

__all__ = ["PRECISIONS", "bfloat16_note", "bfloat16_settings", "computes_bfloat16", "describe_device"]

PRECISIONS = ("teacher.dtype", "teacher.fit.precision", "synthesis.precision", "training.precision")
"""The settings of a recipe that can be bfloat16."""

_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # the last two are ARM's
_BEFORE = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # in a torch without `torch.cpu.get_capabilities`
_ARM = ("aarch64", "arm64")


def bfloat16_note(recipe: Recipe, names: Sequence[str], device: "torch.device") -> str:
    """What to change of the settings `names` that are bfloat16 where `device` is slow at it; "" where all is well."""
    slow = [name for name in bfloat16_settings(recipe) if name in names]
    if not slow or computes_bfloat16(device):
        return ""
    return (
        f"bfloat16 is fast only on a device that has instructions for it, and {describe_device(device)} has none: it "
        f"will be far slower than float32. Set {' '.join(f'{name}=float32' for name in slow)}, in a run of another "
        "name if this one is begun, or use another device"
    )


def bfloat16_settings(recipe: Recipe) -> list[str]:
    """Those of PRECISIONS that are bfloat16. Imports no torch."""
    said = (
        getattr(recipe.teacher, "dtype", None),  # an endpoint has none; neither has synthesis of texts a precision
        recipe.fit and recipe.fit.precision,
        getattr(recipe.synthesis, "precision", None),
        recipe.training and recipe.training.precision,
    )
    return [name for name, value in zip(PRECISIONS, said, strict=True) if value == "bfloat16"]


def computes_bfloat16(device: "torch.device") -> bool:
    """Whether it has instructions for bfloat16 and torch uses them, as far as torch can tell; else it is emulated.

    True where torch does not say: what is not known is no reason to warn.
    """
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without oneDNN, as in torch for macOS, torch's own loops are all there is.
    return device.type != "cpu" or (torch.backends.mkldnn.is_available() and _cpu_has_instructions())


def describe_device(device: "torch.device") -> str:
    """The device, and what of it would do for bfloat16."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        name = torch.cuda.get_device_name(device)
        return f"this GPU ({name}, compute capability {major}.{minor}, where 8.0 would do)"
    level = torch.backends.cpu.get_cpu_capability()
    return f"this CPU ({level}, where avx512_bf16, amx_bf16 or ARM's bf16 would do)"


def _cpu_has_instructions() -> bool:
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        found = ask()
        return any(found.get(name, False) for name in _INSTRUCTIONS)
    if platform.machine().lower() in _ARM:
        asked = [getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)]
    else:
        asked = [getattr(torch.cpu, name, None) for name in _BEFORE]
    known = [function() for function in asked if function is not None]
    return any(known) if known else True
