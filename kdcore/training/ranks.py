"""This process among the processes of a training job."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from kdcore.errors import CheckpointError, KDError, OutOfSpace

PATIENCE = timedelta(hours=2)
"""How long ranks wait for one of them. The first alone compares digests, converts a checkpoint, and writes checkpoints
and exports, which of large students outlasts the 10 minutes that torch gives NCCL. Who starts ranks sees one that died.
"""


@dataclass(frozen=True)
class Ranks:
    """Rank, number of ranks and device; collective operations that are no-ops for one process."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes files and reports."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def from_first(self, value: int) -> int:
        """Rank 0's integer, on every rank."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()

    def together(self, action: Callable[[], None], what: str) -> None:
        """Call `action` on every rank; none goes on when it failed on one.

        Raises OutOfSpace where the disk of any is full (what was written goes then, which others may still read), else
        the error of this rank; where only others have one, CheckpointError.
        """
        problem: Exception | None = None
        try:
            action()
        except (KDError, OSError) as error:
            problem = error
        flags = [problem is not None, isinstance(problem, OutOfSpace)]
        failed, full = self.sum(torch.tensor(flags, dtype=torch.int64, device=self.device)).tolist()
        if problem is not None and (flags[1] or not full):
            raise problem
        if failed:
            kind, others = OutOfSpace if full else CheckpointError, failed - flags[0]
            raise kind(f"{what} failed on {others} other rank(s){', whose disk is full' if full else ''}") from problem


@contextmanager
def process_ranks() -> Iterator[Ranks]:
    """The ranks of torch.distributed if it is up, or started by a launcher's environment, else a single one.

    A group that was started here is also shut down here.
    """
    started = False
    device = local_device()
    if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        started = True
    try:
        if dist.is_initialized():
            yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        else:
            yield Ranks(0, 1, device)
    finally:
        if started:
            dist.destroy_process_group()


def local_device() -> torch.device:
    """The GPU of this process's local rank, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device
