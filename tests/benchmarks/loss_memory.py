"""The most memory that a loss needs at one time, forward and backward, beside what it is given.

A head of 131,072 classes and width 1,024 in bfloat16, each loss in a process of its own: its largest resident set
minus that just before, or what torch's allocator had at most where there is a GPU (--device cuda). Each makes the
gradients of hidden states and head, which are among the bytes: at 4,096 tokens 264 MiB, and twice that of the head
where it is summed in float32.

Ours is with the default `chunk_tokens`; smaller chunks and `recompute` are measured on their own, with --one.
`vs_dense`: ours over the same loss written with logits and autograd; both compare the 64 stored classes and the tail.
`vs_liger`: ours over liger-kernel's chunked distillation from a teacher of the same size in memory, whose hidden states
and head count among what it is given. `flat`: ours at 8,192 tokens over ours at 2,048, less both gradients of hidden
states, and with an eighth of the classes: it takes an eighth of the time, and what grows with tokens shows more.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from kdcore.labels.soft_labels import TopKLabels
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from tests.benchmarks.harness import REPO, emit, progress

CLASSES, WIDTH, K = 131_072, 1024, 64
TOKENS = 4096
FEW_CLASSES = CLASSES // 8
Inputs = tuple[Tensor, Tensor, TopKLabels, Tensor]
Loss = Callable[[Inputs], Tensor]


def inputs_of(tokens: int, classes: int, width: int, device: str) -> Inputs:
    """Hidden states, head, labels and targets; their values matter to no memory."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(device, torch.bfloat16).requires_grad_()
    head = (
        torch.randn(classes, width, generator=generator).mul_(width**-0.5).to(device, torch.bfloat16).requires_grad_()
    )
    ids = (torch.randint(classes, (tokens, 1), generator=generator) + 997 * torch.arange(K)) % classes
    log_probs = torch.full((tokens, K + 1), -1.0).log_softmax(1)
    labels = TopKLabels(ids, log_probs[:, :K].contiguous(), log_probs[:, K].contiguous(), classes).to(device)
    return hidden, head.requires_grad_(), labels, ids[:, 0].to(device)


def ours(inputs: Inputs, **options: object) -> Tensor:
    hidden, head, labels, targets = inputs
    return distillation_loss_from_hidden(hidden, head, labels, targets, hard_weight=0.5, **options)[0]  # pyright: ignore


def dense(inputs: Inputs) -> Tensor:
    """The same loss as one writes it: logits, their log-softmax, and autograd."""
    hidden, head, labels, targets = inputs
    log_p = (hidden @ head.T).float().log_softmax(1)
    tail = log_p.scatter(1, labels.ids, float("-inf")).logsumexp(1, keepdim=True)
    cells = torch.cat([log_p.gather(1, labels.ids), tail], 1)
    log_t = torch.cat([labels.log_probs, labels.tail_log_prob[:, None]], 1)
    kl = functional.kl_div(cells, log_t, reduction="sum", log_target=True)
    return 0.5 * kl + 0.5 * functional.nll_loss(log_p, targets, reduction="sum")


def cross_entropy(inputs: Inputs) -> Tensor:
    """Hard labels only, logits in bfloat16."""
    hidden, head, _, targets = inputs
    return functional.cross_entropy(hidden @ head.T, targets, reduction="sum")


def linear_cross_entropy(inputs: Inputs) -> Tensor:
    """Hard labels only, torch's own chunks, of 1,024 tokens like ours: its own choice takes minutes on a CPU."""
    hidden, head, _, targets = inputs
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=1024, chunking_method=None)
    return functional.linear_cross_entropy(hidden, head, targets, reduction="sum", options=options)


def liger(inputs: Inputs) -> Tensor:
    """liger-kernel's forward KL (JSD with beta 0), chunks of 1,024 tokens; the teacher's tensors are the student's."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    hidden, head, _, targets = inputs
    loss = LigerFusedLinearJSDLoss(beta=0.0, compiled=False, chunk_size=1024)
    found = loss(hidden, head, hidden.detach(), head.detach(), targets)
    return found[0] if isinstance(found, tuple) else found


LOSSES: dict[str, Loss] = {
    "ours": ours,
    "ours, chunks of 256": lambda inputs: ours(inputs, chunk_tokens=256),
    "ours, recomputed": lambda inputs: ours(inputs, recompute=True),
    "dense": dense,
    "torch cross_entropy": cross_entropy,
    "torch linear_cross_entropy": linear_cross_entropy,
    "liger distillation": liger,
}
ALONE = ("ours, chunks of 256", "ours, recomputed")  # only with --one


def peak_bytes(name: str, tokens: int, classes: int, device: str) -> int:
    """In this process, which must not have computed anything before."""
    loss = LOSSES[name]
    small = inputs_of(16, 256, 64, device)
    loss(small).backward()  # libraries load, threads start
    inputs = inputs_of(tokens, classes, WIDTH, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(inputs).backward()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the highest is that of now
    before = _resident("VmRSS")
    loss(inputs).backward()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this measurement needs Linux")


def measure(name: str, tokens: int, device: str, classes: int = CLASSES) -> int:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.loss_memory", "--one", name, "--tokens", str(tokens)]
    command += ["--classes", str(classes), "--device", device]
    child = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(f"'{name}' at {tokens} tokens ended with {child.returncode}:\n{child.stderr[-2000:]}")
    found = json.loads(child.stdout.strip().splitlines()[-1])
    progress(f"{name}, {tokens} tokens, {classes} classes: {found / 2**20:,.0f} MiB")
    return found


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.loss_memory", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--one", choices=list(LOSSES), help="measure this loss only, in this process")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--classes", type=int, default=CLASSES)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(peak_bytes(arguments.one, arguments.tokens, arguments.classes, arguments.device)))
        return
    peaks = {name: measure(name, TOKENS, arguments.device) for name in LOSSES if name not in ALONE}
    by_tokens = {tokens: measure("ours", tokens, arguments.device, FEW_CLASSES) for tokens in (TOKENS // 2, 2 * TOKENS)}
    own = {tokens: peak - 2 * tokens * WIDTH for tokens, peak in by_tokens.items()}
    headline = {
        "vs_dense": round(peaks["ours"] / peaks["dense"], 4),
        "vs_liger": round(peaks["ours"] / peaks["liger distillation"], 4),
        "flat": round(own[2 * TOKENS] / own[TOKENS // 2], 4),
    }
    mib = {name: round(peak / 2**20) for name, peak in peaks.items()}
    emit(
        "loss_memory",
        headline,
        ["python", "-m", "tests.benchmarks.loss_memory", "--device", arguments.device],
        peak_mib=mib,
        few_classes_mib_by_tokens={tokens: round(peak / 2**20) for tokens, peak in by_tokens.items()},
        shape={"tokens": TOKENS, "width": WIDTH, "classes": CLASSES, "stored_classes": K},
    )


if __name__ == "__main__":
    main()
