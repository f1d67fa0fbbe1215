"""A head whose vocabulary is split over ranks: what one rank found of its classes becomes what all found of all.

Each group of classes needs one all-reduce of its largest logit and one of its sums of exponentials; named classes need
one of their logits, which their owner has; the gradient of hidden states, which every rank holds, one of [N, D].
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.sparse.cells import Group

__all__ = ["WHOLE", "Partial", "Shard"]


@dataclass(frozen=True)
class Partial:
    """Of some classes: the largest logit [N] (-inf without one), sum e^(z - best) [N] and sum e^(z - best) z [N]."""

    best: Tensor
    total: Tensor
    moment: Tensor

    @classmethod
    def nothing(cls, like: Tensor) -> "Partial":
        """Of no class; `like` [N] says how many tokens, where, and the type."""
        return cls(torch.full_like(like, float("-inf")), torch.zeros_like(like), torch.zeros_like(like))

    @classmethod
    def joined(cls, best: Tensor, total: Tensor, moment: Tensor) -> "Partial":
        """Of all classes, from those of parts of them [P, N]; a part that has no class has -inf, and so may all."""
        largest = best.amax(0)
        factors = cls(best, total, moment).factor(largest)
        return cls(largest, (total * factors).sum(0), (moment * factors).sum(0))

    def factor(self, best: Tensor) -> Tensor:
        """What the exponentials are multiplied with to be relative to `best`, which is at least as large."""
        return (self.best - best).exp().masked_fill(self.best == float("-inf"), 0.0)

    def group(self) -> Group:
        """The same as a cell has it."""
        mean = torch.where(self.total > 0, self.moment / self.total, 0.0)
        return Group(self.best + self.total.log(), self.best, mean)


@dataclass(frozen=True)
class Shard:
    """This rank's head has the classes from `first_row` on; the ranks of `group` have the others (None: no others)."""

    group: dist.ProcessGroup | None = None
    first_row: int = 0

    def outputs(self, num_classes: int | None, num_rows: int) -> int:
        """How many classes count, of all ranks; `num_rows` are this rank's. ConfigError where that is not known."""
        if self.group is None:
            return num_rows if num_classes is None else min(num_classes, num_rows)
        if num_classes is None:
            raise ConfigError(
                f"a head whose vocabulary is split over ranks needs the number of classes of all, and this one has "
                f"{num_rows} rows from {self.first_row} on: pass num_classes"
            )
        return num_classes

    def check(self, labels: SoftLabels) -> None:
        """Raise ConfigError for labels that name every class of the vocabulary."""
        if self.group is not None and isinstance(labels, DenseLabels):
            raise ConfigError(
                "a head whose vocabulary is split over ranks needs labels that name few classes, got dense ones: set "
                "labels.codec.type to topk, threshold or sampled"
            )

    def local(self, ids: Tensor) -> Tensor:
        """Ids of classes as row numbers of this rank's head: negative or too large where another has them."""
        return ids - self.first_row if self.first_row else ids

    def rows(self, first: int, end: int, num_rows: int) -> tuple[int, int]:
        """Which of the `num_rows` rows of this rank's head are the classes first .. end - 1: first row and end."""
        low, high = (min(max(edge - self.first_row, 0), num_rows) for edge in (first, end))
        return low, high

    def spans(self, num_classes: int, num_outputs: int, num_rows: int) -> list[tuple[int, int]]:
        """Rows of this rank's head of each group of classes: those of the labels, and those beyond if there are any."""
        edges = [0, num_classes, num_outputs]
        return [self.rows(first, end, num_rows) for first, end in pairwise(edges) if first < end]

    def whole(self, partial: Partial) -> Partial:
        """Over the classes of all ranks."""
        if self.group is None:
            return partial
        best = partial.best.clone()
        dist.all_reduce(best, dist.ReduceOp.MAX, group=self.group)
        factor = partial.factor(best)
        sums = torch.stack([partial.total, partial.moment]) * factor
        dist.all_reduce(sums, group=self.group)
        return Partial(best, *sums)

    def owned(self, logits: Tensor, ids: Tensor) -> Tensor:
        """Logits of `ids`, of which each rank has those that its head has, and -inf else; -inf for negative ids."""
        if self.group is None:
            return logits
        known = logits.masked_fill(logits == float("-inf"), 0.0)
        dist.all_reduce(known, group=self.group)
        return known.masked_fill(ids < 0, float("-inf"))

    def summed(self, d_hidden: Tensor) -> Tensor:
        """The gradient of hidden states, of all ranks' classes; overwrites `d_hidden`."""
        if self.group is not None:
            dist.all_reduce(d_hidden, group=self.group)
        return d_hidden


WHOLE = Shard()
"""The whole vocabulary, on one rank."""
