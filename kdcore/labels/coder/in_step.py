"""numpy's way to decode: all blocks side by side, one symbol of each at a time. The reference of the compiled loops."""

import numpy as np

from kdcore.errors import LabelError
from kdcore.labels.coder.layout import FIRST_STATE, PLAIN_BITS, SCALE_BITS, Block
from kdcore.labels.coder.model import CoderModel
from kdcore.labels.coder.symbols import Alphabet

__all__ = ["decode_in_step"]

_MASK = (1 << SCALE_BITS) - 1


class _Lanes:
    """The decoders of all blocks; every method works on the lanes given, by number."""

    def __init__(self, model: CoderModel, words: np.ndarray, blocks: Block) -> None:
        self.model, self.words = model, words
        self.at = blocks.first_word.copy()
        self.end = blocks.first_word + blocks.num_words
        lanes = np.arange(len(self.at))
        self.state = self._word(lanes) << 16
        self.state |= self._word(lanes)

    def _word(self, lanes: np.ndarray) -> np.ndarray:
        if (self.at[lanes] >= self.end[lanes]).any():
            raise _damaged()
        word = self.words[self.at[lanes]].astype(np.int64)
        self.at[lanes] += 1
        return word

    def _refill(self, lanes: np.ndarray) -> None:
        low = lanes[self.state[lanes] < FIRST_STATE]
        if len(low):
            self.state[low] = (self.state[low] << 16) | self._word(low)

    def symbol(self, lanes: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """One symbol of each lane in its context."""
        x = self.state[lanes]
        slot = x & _MASK
        starts = self.model.starts[contexts]
        symbol = (starts <= slot[:, None]).sum(1) - 1
        frequency = self.model.frequencies[contexts, symbol].astype(np.int64)
        self.state[lanes] = frequency * (x >> SCALE_BITS) + slot - self.model.starts[contexts, symbol]
        self._refill(lanes)
        return symbol

    def plain(self, lanes: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Plain bits of each lane, `bits` of them."""
        value = np.zeros(len(lanes), np.int64)
        bits = bits.copy()
        while (bits > 0).any():
            here = np.flatnonzero(bits > 0)
            width = np.minimum(bits[here], PLAIN_BITS)
            shift = SCALE_BITS - width
            x = self.state[lanes[here]]
            slot = x & _MASK
            self.state[lanes[here]] = ((x >> SCALE_BITS) << shift) + (slot & ((1 << shift) - 1))
            self._refill(lanes[here])
            value[here] = (value[here] << width) | (slot >> shift)
            bits[here] -= width
        return value

    def number(self, lanes: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """The numbers whose bucket symbols were read."""
        shift = np.where(symbols < 4, 0, (symbols >> 2) - 1)
        base = np.where(symbols < 4, symbols, (4 + (symbols & 3)) << shift)
        return base + self.plain(lanes, shift)


def decode_in_step(
    model: CoderModel, words: np.ndarray, blocks: Block, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """See `blocks.decode`."""
    lanes = _Lanes(model, words, blocks)
    first_label = np.cumsum(blocks.num_labels) - blocks.num_labels
    stops = blocks.skip + blocks.take
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number in range(int(stops.max(initial=0))):
        active = np.flatnonzero(stops > number)
        label = first_label[active] + number
        parts = _one_label(model, lanes, active, targets[label])
        wanted = number >= blocks.skip
        found += [
            (label[np.searchsorted(active, who)][wanted[who]], i[wanted[who]], c[wanted[who]]) for who, i, c in parts
        ]
    whole = np.flatnonzero(stops == blocks.num_labels)
    if (lanes.state[whole] != FIRST_STATE).any() or (lanes.at[whole] != lanes.end[whole]).any():
        raise _damaged()
    label, ids, counts = (
        np.concatenate([np.empty(0, np.int64), *column]) for column in (zip(*found, strict=True) if found else [()] * 3)
    )
    order = np.argsort(label, kind="stable")
    wanted_labels = np.concatenate(
        [np.empty(0, np.int64), *(f + np.arange(s, e) for f, s, e in zip(first_label, blocks.skip, stops, strict=True))]
    )
    entries = np.bincount(label, minlength=int(blocks.num_labels.sum()))[wanted_labels]
    weights = counts[order].astype(np.float32) * np.float32(1.0 / model.draws)
    return ids[order], weights, entries


def _one_label(
    model: CoderModel, lanes: _Lanes, active: np.ndarray, targets: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The next label of each active lane: (lanes, ids, counts) of each round of classes."""
    header = lanes.symbol(active, np.zeros(len(active), np.int64))
    flag, size = header & 1, header >> 1
    n = lanes.number(active, size) + 1
    count = np.where(n == 1, model.draws, 1)
    said = np.flatnonzero((flag == 1) & (n > 1) & (n < model.draws))
    context = model.alphabet.target + np.minimum(size[said], Alphabet.TARGET_BUCKETS - 1)
    count[said] = lanes.number(active[said], lanes.symbol(active[said], context)) + 1
    flagged = flag == 1
    parts = [(active[flagged], targets[flagged], count[flagged])]
    _check((n <= min(model.draws, model.num_classes)) & (~flagged | _in_range(targets, model.num_classes)))
    left, rest = n - flag, model.draws - count * flag
    before = np.full(len(active), -1, np.int64)
    while (left > 0).any():
        here = np.flatnonzero(left > 0)
        who = active[here]
        context = model.gap_contexts[before[here] + 1] + np.minimum(left[here], Alphabet.GAPS_LEFT)
        before[here] += 1 + lanes.number(who, lanes.symbol(who, context))
        _check(before[here] < model.num_classes)
        count = _counts(model, lanes, who, left[here], rest[here])
        parts.append((who, model.ids_by_rank[before[here]].astype(np.int64), count))
        rest[here] -= count
        left[here] -= 1
    _check(rest == 0)
    return parts


def _counts(model: CoderModel, lanes: _Lanes, who: np.ndarray, left: np.ndarray, rest: np.ndarray) -> np.ndarray:
    excess = rest - left
    _check(excess >= 0)
    count = np.where(left == 1, rest, 1)
    said = np.flatnonzero((excess > 0) & (left > 1))
    context = model.count_contexts[excess[said]] + np.minimum(left[said], Alphabet.COUNTS_LEFT + 1)
    count[said] = lanes.number(who[said], lanes.symbol(who[said], context)) + 1
    _check(count <= excess + 1)
    return count


def _in_range(ids: np.ndarray, num_classes: int) -> np.ndarray:
    return (ids >= 0) & (ids < num_classes)


def _check(right: np.ndarray) -> None:
    if not right.all():
        raise _damaged()


def _damaged() -> LabelError:
    return LabelError(
        "coded labels do not decode: the shard was altered, or the tables in the manifest are another store's; "
        "`kd store verify` says which"
    )
