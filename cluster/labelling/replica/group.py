"""The torch.distributed group of the actors that one copy of a teacher is split over."""

from datetime import timedelta

import torch
import torch.distributed as dist

from kdcore.errors import ClusterError

__all__ = ["join_group", "leave_group", "open_meeting"]


def open_meeting(address: str, ranks: int, timeout: float) -> dist.TCPStore:
    """Where the ranks find one another, served by rank 0 under its `address`; `port` of it is a free one.

    The store itself takes the port, since one that is looked up first may be gone when it is needed.
    """
    try:
        return dist.TCPStore(
            address, 0, ranks, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout)
        )
    except (RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Rank 0 of a teacher must listen at its node's address, cannot at {address}: {error}"
        ) from error


def join_group(rank: int, ranks: int, meeting: dist.TCPStore | tuple[str, int], timeout: float) -> None:
    """Join the group of `ranks` processes as `rank`: over NCCL on GPUs, else over gloo.

    `meeting` is what `open_meeting` gave, on rank 0; its address and port on the others. `timeout` (seconds) holds for
    joining and for every exchange after it: a rank that has died, or hangs, ends the others instead of holding them
    for ever. Raises ClusterError when the others do not come.
    """
    wait = timedelta(seconds=timeout)
    gpu = torch.cuda.is_available()
    try:
        store = dist.TCPStore(*meeting, ranks, is_master=False, timeout=wait) if isinstance(meeting, tuple) else meeting
        dist.init_process_group(
            "nccl" if gpu else "gloo",
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=wait,
            device_id=torch.device("cuda", torch.cuda.current_device()) if gpu else None,
        )
    except (RuntimeError, ValueError) as error:
        leave_group()
        raise ClusterError(
            f"The {ranks} processes of a split teacher must meet within {timeout:g} s; rank {rank} did not: {error}. "
            "One of them has probably died, or a firewall parts their nodes; teacher.tensor_parallel sets how many."
        ) from error


def leave_group() -> None:
    """Leave the group, if in one."""
    if dist.is_initialized():
        dist.destroy_process_group()
