"""The loss from hidden states on a GPU: forward and backward of 8,192 tokens, width 4,096, 131,072 classes, bfloat16.

Ours has 64 stored classes and a tail, and the hard label, and is exact. `tflops`: of what `auto` takes, counted as
8 T D V operations. `vs_hard_label_fused`: the time of liger-kernel's fused linear cross-entropy over that (above 1:
ours is faster). `vs_chunked_torch`: the same of our loss as one writes it in torch, chunk by chunk under
`torch.utils.checkpoint`; `vs_own_chunks`: of our own chunks whose passes are torch's. Times are medians of CUDA events.
Before, both kinds of kernels are compared with torch on smaller shapes on this GPU (`parity`: the largest difference of
gradients, relative to the largest gradient). Where the time of `auto` goes, kernel by kernel, is told on stderr.

Needs a GPU: without one it says so and exits with 2.
"""

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.benchmarks.harness import emit, progress
from tests.benchmarks.loss_memory import Inputs, dense, inputs_of, ours

TOKENS, WIDTH, CLASSES = 8192, 4096, 131_072
FILTER = 2.0**-12
"""Of Cut Cross-Entropy, for bfloat16."""


def hard_label(inputs: Inputs) -> Tensor:
    """liger-kernel's fused head of hard labels."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    hidden, head, _, targets = inputs
    found = liger_fused_linear_cross_entropy(hidden, head, targets, reduction="sum")
    return found[0] if isinstance(found, tuple) else found


def in_chunks(loss: Callable[[Inputs], Tensor], inputs: Inputs, size: int = 1024) -> Tensor:
    """A loss of logits, chunk by chunk, each made again for its backward pass."""
    hidden, head, labels, targets = inputs
    total = hidden.new_zeros((), dtype=torch.float32)
    for first in range(0, len(hidden), size):
        part = slice(first, first + size)
        total = total + checkpoint(loss, (hidden[part], head, labels.index(part), targets[part]), use_reentrant=False)
    return total


def cross_entropy(inputs: Inputs) -> Tensor:
    """Of hard labels, from logits in bfloat16."""
    hidden, head, _, targets = inputs
    return functional.cross_entropy((hidden @ head.T).float(), targets, reduction="sum")


LOSSES: dict[str, Callable[[Inputs], Tensor]] = {
    "auto": ours,
    "chunks with fused passes": lambda inputs: ours(inputs, implementation="fused"),
    "chunks of 1,024 with fused passes": lambda inputs: ours(inputs, implementation="fused", chunk_tokens=1024),
    "chunks of 4,096 with fused passes": lambda inputs: ours(inputs, implementation="fused", chunk_tokens=4096),
    "tile kernels": lambda inputs: ours(inputs, implementation="triton"),
    "tile kernels, filtered": lambda inputs: ours(inputs, implementation="triton", gradient_filter=FILTER),
    "chunks in torch": lambda inputs: ours(inputs, implementation="torch"),
    "chunks in plain torch": lambda inputs: in_chunks(dense, inputs),
    "hard labels, liger": hard_label,
    "hard labels, chunks in plain torch": lambda inputs: in_chunks(cross_entropy, inputs),
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


def breakdown(loss: Callable[[Inputs], Tensor], inputs: Inputs, rows: int = 12) -> list[str]:
    """The kernels that one forward and backward spends most time in: milliseconds, launches and name of each."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        torch.autograd.grad(loss(inputs), inputs[:2])
        torch.cuda.synchronize()
    kernels = [event for event in found.key_averages() if event.self_device_time_total > 0]
    kernels.sort(key=lambda event: event.self_device_time_total, reverse=True)
    total = sum(event.self_device_time_total for event in kernels)
    lines = [f"{total / 1e3:9.3f} ms in {sum(event.count for event in kernels)} launches of {len(kernels)} kernels"]
    for event in kernels[:rows]:
        lines.append(f"{event.self_device_time_total / 1e3:9.3f} ms {event.count:5d} x {event.key[:120]}")
    return lines


def parity(implementation: str) -> float:
    """The largest difference of gradients from those in torch, relative to the largest of each gradient."""
    worst = 0.0
    for tokens, width, classes in ((512, 512, 8192), (333, 264, 5000)):
        inputs = inputs_of(tokens, classes, width, "cuda")
        wanted = torch.autograd.grad(ours(inputs, implementation="torch"), inputs[:2])
        found = torch.autograd.grad(ours(inputs, implementation=implementation, chunk_tokens=200), inputs[:2])
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
    difference = {implementation: parity(implementation) for implementation in ("fused", "triton")}
    progress(f"gradients differ by at most {difference} of the largest")
    inputs = inputs_of(TOKENS, CLASSES, WIDTH, "cuda")
    found = {}
    for name, loss in LOSSES.items():
        found[name] = milliseconds(loss, inputs, arguments.repeats)
        progress(f"{name}: {found[name]}")
    for name in ("auto", "hard labels, liger"):
        progress("\n".join([f"{name}, kernel by kernel:", *breakdown(LOSSES[name], inputs)]))
    time = found["auto"]["ms"]
    headline = {
        "tflops": round(8 * TOKENS * WIDTH * CLASSES / time / 1e9, 1),
        "vs_hard_label_fused": round(found["hard labels, liger"]["ms"] / time, 4),
        "vs_chunked_torch": round(found["chunks in plain torch"]["ms"] / time, 4),
        "vs_own_chunks": round(found["chunks in torch"]["ms"] / time, 4),
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
