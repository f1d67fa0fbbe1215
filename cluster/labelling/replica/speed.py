"""How well a teacher uses its device: seconds within its forward passes, beside what its peak would take."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdcore.store.writer import Receipt

__all__ = ["ForwardClock", "pass_flops", "peak_flops"]

# Dense FLOP/s in 16 bits of the makers' data sheets, by what CUDA calls the device; the first that fits counts.
_PEAKS_16 = (
    ("B200", 2250e12), ("H200", 989e12), ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12),
    ("H20", 148e12), ("A100", 312e12), ("A800", 312e12), ("L40S", 362e12), ("L4", 121e12), ("A10G", 70e12),
    ("A10", 125e12), ("V100", 125e12), ("T4", 65e12),
)  # fmt: skip
_REPEATS = 3
_LONG_SECONDS = 0.5


class ForwardClock:
    """Adds up the seconds that `model` spends in its forward passes, on a GPU as the GPU saw them.

    `ideal_seconds` is what one token (or image) would take at the peak of the device.
    """

    def __init__(self, model: nn.Module, ideal_seconds: float) -> None:
        self._ideal_seconds = ideal_seconds
        self._cuda = next(model.parameters()).is_cuda
        self._spans: list[tuple[Any, Any]] = []
        self._began: Any = None
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._began = self._now()

    def _end(self, *_: Any) -> None:
        self._spans.append((self._began, self._now()))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> float:
        """The seconds since the last call; from 0 again."""
        spans, self._spans = self._spans, []
        if not self._cuda:
            return sum(end - begin for begin, end in spans)
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in spans) / 1e3

    def noted(self, receipt: Receipt, read: int) -> Receipt:
        """The receipt with the seconds of its unit in it, for which so many tokens (or images) were read."""
        return replace(receipt, forward_seconds=self.take(), ideal_seconds=self._ideal_seconds * read)


@torch.inference_mode()
def pass_flops(model: nn.Module, image: torch.Tensor | None = None) -> float:
    """Floating-point operations of a token, 2 a parameter; of an `image` [1, C, H, W], as counted in a pass over it.

    An input embedding of its own is looked up and not multiplied: it does not count. Neither does attention itself.
    """
    if image is not None:
        with FlopCounterMode(display=False) as counted:
            model(image)
        return float(counted.get_total_flops())
    weights = sum(parameter.numel() for parameter in model.parameters())
    looked_up: nn.Module | None = model.get_input_embeddings()  # pyright: ignore
    head: nn.Module | None = model.get_output_embeddings()  # pyright: ignore
    if looked_up is not None and (head is None or looked_up.weight is not head.weight):
        weights -= looked_up.weight.numel()  # pyright: ignore
    return 2.0 * weights


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that a device can reach: its maker's number for a known GPU in 16 bits, else a matmul measured here.

    The measured one runs with the threads that this process has, in some 0.1 s (once only where a type is emulated, and
    takes seconds); other work on the machine lowers it.
    """
    if device.type == "cuda" and dtype.itemsize == 2:
        name = torch.cuda.get_device_name(device)
        for part, peak in _PEAKS_16:
            if part in name:
                return peak
    return _measured(device, dtype)


@torch.inference_mode()
def _measured(device: torch.device, dtype: torch.dtype) -> float:
    size = 8192 if device.type == "cuda" else 768
    left = torch.ones(size, size, dtype=dtype, device=device)
    right, best = left.clone(), float("inf")
    for _ in range(_REPEATS + 1):  # the first warms up
        started = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
        if best > _LONG_SECONDS:
            break
    return 2.0 * size**3 / best
