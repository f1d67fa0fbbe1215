"""The loss from hidden states on a GPU: forward and backward of 8,192 tokens, width 4,096, 131,072 classes, bfloat16.

`tflops`: ours with 64 stored classes and tail, exact, counted as 8 T D V operations. `vs_hard_label_fused`: the time of
liger-kernel's fused linear cross-entropy over ours (above 1: ours is faster). `vs_chunked_torch`: our own torch
implementation's time over the kernels'. Times are medians of CUDA events. Before, the kernels are compared with torch
on smaller shapes on this GPU (`parity`: the largest difference of gradients, relative to the largest gradient).

Needs a GPU: without one it says so and exits with 2. It has never been run on one: the kernels were tested in triton's
interpreter and compiled for compute capability 9.0.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from tests.benchmarks.harness import emit, progress
from tests.benchmarks.loss_memory import Inputs, inputs_of

TOKENS, WIDTH, CLASSES = 8192, 4096, 131_072
FILTER = 2.0**-12
"""Of Cut Cross-Entropy, for bfloat16."""


def kernels(inputs: Inputs, gradient_filter: float = 0.0, implementation: str = "triton") -> Tensor:
    hidden, head, labels, targets = inputs
    return distillation_loss_from_hidden(
        hidden, head, labels, targets, implementation=implementation, gradient_filter=gradient_filter  # pyright: ignore
    )[0]  # fmt: skip


def hard_label(inputs: Inputs) -> Tensor:
    """liger-kernel's fused head of hard labels."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    hidden, head, _, targets = inputs
    found = liger_fused_linear_cross_entropy(hidden, head, targets, reduction="sum")
    return found[0] if isinstance(found, tuple) else found


LOSSES: dict[str, Callable[[Inputs], Tensor]] = {
    "kernels": kernels,
    "kernels, filtered": lambda inputs: kernels(inputs, FILTER),
    "chunked torch": lambda inputs: kernels(inputs, implementation="torch"),
    "hard labels, liger": hard_label,
}


def milliseconds(loss: Callable[[Inputs], Tensor], inputs: Inputs, repeats: int) -> dict[str, float]:
    """Median and range of forward and backward, after two to warm up, and the peak of the allocator in GiB."""
    leaves, times = inputs[:2], []
    before = torch.cuda.memory_allocated()
    for number in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if number == 2:
            torch.cuda.reset_peak_memory_stats()
        start.record()
        torch.autograd.grad(loss(inputs), leaves)
        end.record()
        torch.cuda.synchronize()
        if number >= 2:
            times.append(start.elapsed_time(end))
    peak = (torch.cuda.max_memory_allocated() - before) / 2**30
    return {"ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times), "peak_gib": peak}


def parity() -> float:
    """The largest difference of gradients between kernels and torch, relative to the largest of each gradient."""
    worst = 0.0
    for tokens, width, classes in ((512, 512, 8192), (333, 264, 5000)):
        inputs = inputs_of(tokens, classes, width, "cuda")
        wanted = torch.autograd.grad(kernels(inputs, implementation="torch"), inputs[:2])
        found = torch.autograd.grad(kernels(inputs), inputs[:2])
        for mine, theirs in zip(found, wanted, strict=True):
            worst = max(worst, float((mine - theirs).abs().max() / theirs.abs().max()))
    return worst


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu_loss", description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("gpu_loss needs a GPU of compute capability 8.0 or more, and torch sees none here", file=sys.stderr)
        raise SystemExit(2)
    difference = parity()
    progress(f"gradients differ by at most {difference:.2e} of the largest")
    inputs = inputs_of(TOKENS, CLASSES, WIDTH, "cuda")
    found = {}
    for name, loss in LOSSES.items():
        found[name] = milliseconds(loss, inputs, arguments.repeats)
        progress(f"{name}: {found[name]}")
    ours = found["kernels"]["ms"]
    headline = {
        "tflops": round(8 * TOKENS * WIDTH * CLASSES / ours / 1e9, 1),
        "vs_hard_label_fused": round(found["hard labels, liger"]["ms"] / ours, 4),
        "vs_chunked_torch": round(found["chunked torch"]["ms"] / ours, 4),
    }
    emit(
        "gpu_loss",
        headline,
        ["python", "-m", "tests.benchmarks.gpu_loss"],
        losses=found,
        parity=difference,
        gpu=torch.cuda.get_device_name(),
        shape={"tokens": TOKENS, "width": WIDTH, "classes": CLASSES},
    )


if __name__ == "__main__":
    main()
