"""The samples of a step, and of each of its micro-batches: a pure function, for any number of ranks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcore.config import TrainingConfig
from kdcore.data.order import TokenStream, sample_index
from kdcore.training.packing import Layout, arrange, fill_rows
from kdcore.training.schedule import num_steps

__all__ = ["StepPlan", "deal"]


@dataclass(frozen=True)
class StepPlan:
    """Which samples make an optimizer step, and how they are dealt to ranks and micro-batches.

    The samples of a step follow from (seed, step) and the settings of its size alone; ranks, micro-batches and `layout`
    only arrange them. `lengths` is that of the samples, `views` how many of each there are (see `sample_index`).
    """

    config: TrainingConfig
    world: int
    seed: int
    lengths: np.ndarray
    layout: Layout = "padded"
    views: int | None = 1

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return num_steps(self.config, len(self.lengths), self._stream.epoch_tokens)

    @property
    def accumulates(self) -> bool:
        """Whether a step may take more than one micro-batch."""
        size, config = self.config.micro_batch_size, self.config
        if size is None:
            return config.micro_batch_tokens is not None
        return config.batch_size is None or size < -(-config.batch_size // self.world)

    def step_indices(self, step: int) -> np.ndarray:
        """The samples int64 [n] of an optimizer step: the same for every number of ranks.

        Epochs follow each other without a gap, so that a step may have samples of two. Steps of `tokens_per_step` T
        have the samples whose first token is one of the T tokens from step x T on.
        """
        size, config = self.config.tokens_per_step, self.config
        if size is None:
            assert config.batch_size is not None
            return sample_index(self.seed, step, config.batch_size, len(self.lengths), self.views)
        return self._stream.samples(step * size, (step + 1) * size)

    def micro_batches(self, step: int, rank: int) -> list[np.ndarray]:
        """The samples of each micro-batch of one rank: as many micro-batches on every rank, the last maybe empty."""
        indices = self.step_indices(step)
        ranks = deal(self.lengths_of(indices), self.world)
        parts = [self._cut(indices[ranks == number]) for number in range(self.world)]
        nothing = [np.zeros(0, dtype=np.int64)]
        return parts[rank] + nothing * (max(map(len, parts)) - len(parts[rank]))

    def lengths_of(self, indices: np.ndarray) -> np.ndarray:
        """The lengths of samples by number, whatever their views."""
        return self.lengths[indices % len(self.lengths)]

    def slots(self, parts: list[np.ndarray], layout: Layout) -> int:
        """Tokens that micro-batches take in a layout, padding included."""
        width = self.config.sequence_length
        return sum(arrange(self.lengths_of(part), layout, width).num_slots for part in parts if len(part))

    @cached_property
    def _stream(self) -> TokenStream:
        return TokenStream(self.lengths, self.seed, self.views)

    def _cut(self, indices: np.ndarray) -> list[np.ndarray]:
        """The micro-batches of a rank's samples."""
        lengths, limit = self.lengths_of(indices), self.config.micro_batch_tokens
        if self.layout == "padded":  # like to like
            order = np.argsort(-lengths, kind="stable")
            indices, lengths = indices[order], lengths[order]
        if limit is None:
            size = self.config.micro_batch_size or max(1, len(indices))
            return [indices[start : start + size] for start in range(0, len(indices), size)]
        groups = _within(lengths, limit, self.layout, self.config.sequence_length)
        return [indices[groups == group] for group in range(int(groups.max(initial=-1)) + 1)]


def deal(lengths: np.ndarray, world: int) -> np.ndarray:
    """The rank of each sample, int64 [n]: numbers of samples differ by one at most, and tokens by little.

    The longest `world` samples go to one rank each; of the next longest, the longest goes to the rank with the fewest
    tokens so far, and so on: two ranks never differ by more tokens than the longest sample has.
    """
    if world == 1 or len(lengths) == 0 or lengths.min() == lengths.max():
        return np.arange(len(lengths), dtype=np.int64) % world
    ranks, loads = np.empty(len(lengths), dtype=np.int64), np.zeros(world, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), world):
        block = order[start : start + world]
        least = np.argsort(loads, kind="stable")[: len(block)]
        ranks[block] = least
        loads[least] += lengths[block]
    return ranks


def _within(lengths: np.ndarray, limit: int, layout: Layout, longest_row: int) -> np.ndarray:
    """The micro-batch of each sample, int64 [n], such that none takes more than `limit` tokens with its padding.

    Padded samples come longest first. Rows that are packed here are packed alike when the batch is made (fill_rows).
    """
    if layout == "flat":
        return fill_rows(lengths, limit)[0]
    if layout == "rows":
        return fill_rows(lengths, longest_row)[0] // (limit // longest_row)
    groups = np.zeros(len(lengths), dtype=np.int64)
    start, group = 0, 0
    while start < len(lengths):
        stop = start + limit // int(lengths[start])
        groups[start:stop] = group
        start, group = stop, group + 1
    return groups
