"""The order of samples: a pure function of (seed, epoch, index), independent of world and batch size."""

from functools import lru_cache

import numpy as np

from kdcore.errors import DataError
from kdcore.identity import mix_next

_MASK = (1 << 64) - 1


def epoch_order(num: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation int64 [num] of one epoch (read-only).

    Samples are sorted by a hash of (seed, epoch, index), so the order does not hang on a version of a generator.
    """
    if num < 1:
        raise DataError(f"an order needs at least one sample, got {num}")
    return _epoch_order(num, seed & _MASK, epoch)


def sample_index(seed: int, step: int, batch_size: int, num: int, views: int | None = 1) -> np.ndarray:
    """The samples int64 [batch_size] of global step `step`; epochs follow each other without a gap.

    An epoch has every one of `num` samples once, in one of its `views`: sample i in view v has the number i + num v.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
    epochs, places = np.divmod(positions, max(num, 1))
    result = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        samples = epoch_order(num, seed, int(epoch))[places[here]]
        result[here] = samples + num * epoch_views(samples, seed, int(epoch), views)
    return result


def epoch_views(samples: np.ndarray, seed: int, epoch: int, views: int | None) -> np.ndarray:
    """The view, int64 [n], that an epoch sees of each of `samples` int64 [n]: all once before any comes again.

    Of `views` None, which have no end, that of the epoch's number.
    """
    if views is None:
        return np.full(len(samples), epoch, dtype=np.int64)
    if views == 1:
        return np.zeros(len(samples), dtype=np.int64)
    start = mix_next(np.array([seed & _MASK], dtype=np.uint64) ^ np.uint64(_MASK))
    first = mix_next(start + samples.astype(np.uint64)) % np.uint64(views)
    return (first.astype(np.int64) + epoch) % views


class TokenStream:
    """The samples of all epochs, one after the other in their order, as a stream that is cut by tokens."""

    def __init__(self, lengths: np.ndarray, seed: int, views: int | None = 1) -> None:
        """`lengths` int [N]: the tokens of each sample, at least one; `views` as of `sample_index`."""
        self._lengths, self._seed, self._views = lengths, seed, views
        self.epoch_tokens = int(lengths.sum())
        # Two, since a cut may lie across the border of two epochs.
        self._starts = lru_cache(maxsize=2)(self._make_starts)

    def samples(self, first: int, stop: int) -> np.ndarray:
        """The samples int64 [n] whose first token is one of first..stop-1 of the stream.

        Adjacent cuts share no sample and lose none; a cut that is as long as the longest sample is never empty.
        """
        parts = []
        for epoch in range(first // self.epoch_tokens, -(-stop // self.epoch_tokens)):
            begin = epoch * self.epoch_tokens
            low, high = np.searchsorted(self._starts(epoch), (first - begin, stop - begin))
            samples = epoch_order(len(self._lengths), self._seed, epoch)[low:high]
            parts.append(samples + len(self._lengths) * epoch_views(samples, self._seed, epoch, self._views))
        return np.concatenate(parts)

    def _make_starts(self, epoch: int) -> np.ndarray:
        lengths = self._lengths[epoch_order(len(self._lengths), self._seed, epoch)]
        return np.cumsum(lengths, dtype=np.int64) - lengths


@lru_cache(maxsize=4)
def _epoch_order(num: int, seed: int, epoch: int) -> np.ndarray:
    start = mix_next(mix_next(np.array([seed], dtype=np.uint64)) ^ np.uint64(epoch & _MASK))
    order = np.argsort(mix_next(start + np.arange(num, dtype=np.uint64)), kind="stable")
    order.setflags(write=False)
    return order
