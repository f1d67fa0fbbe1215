"""Time of one forward pass at batch size 1."""

import time
from collections.abc import Callable

import numpy as np
import torch

__all__ = ["latency"]


def latency(forward: Callable[[], object], warmup: int = 3, repeats: int = 20) -> dict[str, float]:
    """Median and 95th percentile of `forward()` in milliseconds: {"p50_ms", "p95_ms"}."""
    times = np.empty(repeats)
    with torch.inference_mode():
        for _ in range(warmup):
            forward()
        for index in range(repeats):
            _synchronise()
            started = time.perf_counter()
            forward()
            _synchronise()
            times[index] = time.perf_counter() - started
    p50, p95 = np.percentile(times * 1e3, [50, 95])
    return {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}


def _synchronise() -> None:
    """GPU kernels are queued: the clock is read only after they have run."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
