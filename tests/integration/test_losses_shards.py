"""A head whose vocabulary is split over two ranks: loss, metrics and gradients are those of the whole head."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from kdcore.losses.forms import form_of
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from kdcore.losses.sparse.shards import WHOLE, Shard
from tests.support.losses import sparse_of, topk_of

TOKENS, WIDTH, CLASSES, ROWS = 5, 16, 44, 50
SPLITS = {"uneven": 29, "one class and the padding": 43, "no class that counts": 48}
"""The first row of rank 1."""


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    teacher = 3 * torch.randn(TOKENS, CLASSES, generator=generator, dtype=torch.float64)
    return {
        "hidden": torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64),
        "head": torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64) / 4,
        "bias": torch.randn(ROWS, generator=generator, dtype=torch.float64),
        "targets": torch.randint(CLASSES, (TOKENS,), generator=generator),
        "topk": topk_of(teacher, 4),
        "weights": sparse_of(teacher, 6),
        "none": None,
    }


def cases() -> list[tuple[str, str, str, dict[str, Any]]]:
    """Split, labels, implementation and options of each loss."""
    jsd = Objective(form_of("jsd", beta=0.5), 0.3)
    capped = {"objective": jsd, "rules": LogitRules(1.5, 4.0), "chunk_tokens": 2}
    found: list[tuple[str, str, str, dict[str, Any]]] = [
        (split, "topk", "torch", {**capped, "recompute": again}) for split in SPLITS for again in (False, True)
    ]
    found += [("uneven", labels, "torch", {}) for labels in ("weights", "none")]
    found += [(split, "topk", "fused", capped) for split in SPLITS]
    return [*found, *[(split, "topk", "triton", {"objective": jsd}) for split in ("uneven", "no class that counts")]]


def loss_of(labels: str, implementation: str, options: dict[str, Any], shard: Shard, rows: slice) -> list[torch.Tensor]:
    """Loss, metrics and gradients of 0.7 x loss, of these rows of the head; classes from 47 on do not count."""
    given = tensors()
    dtype = torch.float64 if implementation == "torch" else torch.float32
    leaves = [value.to(dtype).requires_grad_() for value in (given["hidden"], given["head"][rows], given["bias"][rows])]
    loss, metrics = distillation_loss_from_hidden(
        leaves[0], leaves[1], given[labels], given["targets"], head_bias=leaves[2], num_classes=47, shard=shard,
        implementation=implementation, **options,
    )  # fmt: skip
    gradients = torch.autograd.grad(0.7 * loss, leaves)
    return [value.detach().double() for value in (loss, torch.stack(list(metrics.values())), *gradients)]


def work(folder: Path, rank: int) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found = []
    for split, labels, implementation, options in cases():
        first = SPLITS[split]
        shard = Shard(dist.group.WORLD, first if rank else 0)
        rows = slice(first, ROWS) if rank else slice(0, first)
        found.append(loss_of(labels, implementation, options, shard, rows))
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_with_half_a_head_each_find_what_one_finds_with_all_of_it(tmp_path):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(rank)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    found = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for number, (split, labels, implementation, options) in enumerate(cases()):
        loss, metrics, d_hidden, d_head, d_bias = loss_of(labels, "torch", options, WHOLE, slice(0, ROWS))
        close = {"rtol": 1e-9, "atol": 1e-12} if implementation == "torch" else {"rtol": 1e-4, "atol": 1e-5}
        for rank in range(2):
            mine = found[rank][number]
            rows = slice(SPLITS[split], ROWS) if rank else slice(0, SPLITS[split])
            for value, wanted in zip(mine, (loss, metrics, d_hidden, d_head[rows], d_bias[rows]), strict=True):
                torch.testing.assert_close(value, wanted, **close)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
