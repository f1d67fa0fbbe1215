"""What methods remember of single samples, the same on all ranks after every step."""

import torch
import torch.distributed as dist
from torch import Tensor

from kdcore.losses.compose import ComposedLoss
from kdcore.training.ranks import Ranks

__all__ = ["Memories"]


class Memories:
    """Watches the buffers of `losses` while they change in forward passes, and settles them when a step is over."""

    def __init__(self, losses: ComposedLoss) -> None:
        self._losses = losses
        self._before: list[tuple[Tensor, list[Tensor]]] = []

    def keep(self, indices: Tensor) -> None:
        """Before a forward pass: the rows of `indices` int64 [N] as they are, since it may change them."""
        memories = self._losses.memories()
        if memories:
            self._before.append((indices, [memory[indices].clone() for memory in memories]))

    def undo(self) -> None:
        """The last forward pass changed nothing."""
        memories = self._losses.memories()
        if memories:
            indices, rows = self._before.pop()
            for memory, row in zip(memories, rows, strict=True):
                memory[indices] = row

    def forget(self) -> None:
        """What changed stays."""
        self._before.clear()

    def settle(self, accepted: bool, ranks: Ranks) -> None:
        """After a step, on all ranks: rows that it changed are on every rank, or, if it was not taken, as before.

        A sample that several ranks had gets the last one's. Buffers that are no memories get the first rank's.
        """
        seen = [indices for indices, _ in self._before]
        while self._before and not accepted:
            self.undo()
        self.forget()
        if ranks.world == 1:
            return
        if accepted:
            self._spread(torch.cat(seen) if seen else None, ranks)
        for buffer in self._losses.other_buffers():
            dist.broadcast(buffer, src=0)

    def _spread(self, indices: Tensor | None, ranks: Ranks) -> None:
        memories = self._losses.memories()
        if not memories:
            return
        mine = torch.zeros(0, dtype=torch.int64, device=ranks.device) if indices is None else indices.unique()
        counts = torch.zeros(ranks.world, dtype=torch.int64, device=ranks.device)
        counts[ranks.rank] = len(mine)
        sizes = ranks.sum(counts).tolist()
        everyones = _gathered(mine, sizes)
        for memory in memories:
            for numbers, rows in zip(everyones, _gathered(memory[mine], sizes), strict=True):
                memory[numbers] = rows


def _gathered(part: Tensor, sizes: list[int]) -> list[Tensor]:
    """The `part` of every rank, whose lengths are `sizes`."""
    padded = part.new_zeros(max(sizes), *part.shape[1:])
    padded[: len(part)] = part
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return [rows[:size] for rows, size in zip(found, sizes, strict=True)]
