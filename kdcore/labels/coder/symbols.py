"""Labels as a sequence of symbols, each in a context: what the entropy coder codes.

A label is n classes with counts that sum to D (`draws`). In this order:

    header        n - 1 and whether the hard label is among the n          symbol 2 x bucket(n - 1) + flag
    hard label    its count - 1, unless it follows                         context bucket(n - 1)
    for each other class, by rising rank:
        gap       ranks skipped since the last one                         context bucket(rank before + 1), classes left
        count     count - 1, unless it follows                             context bucket(excess), classes left

A count follows when the class is the last of the label, or when every class left has one (excess zero, where the excess
is the sum left minus the classes left). Ranks are positions in the order of the prior, the most probable class first.
A bucket's plain bits follow its symbol, at most 12 at a time, the highest first.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kdcore.labels.coder.buckets import bucket, num_symbols
from kdcore.labels.coder.layout import PLAIN, PLAIN_BITS

__all__ = ["Alphabet", "Symbols", "label_symbols"]

_SLOTS = 7  # a symbol with up to three runs of plain bits, a second one with up to two


@dataclass(frozen=True)
class Alphabet:
    """The contexts, one block after the other, and how many symbols each block needs."""

    header: int
    target: int
    gap: int
    count: int
    num_contexts: int
    header_symbols: int
    gap_symbols: int
    count_symbols: int

    # Caps of what a context tells apart; learnt tables need enough samples each.
    TARGET_BUCKETS: ClassVar[int] = 24
    PREVIOUS_BUCKETS: ClassVar[int] = 72
    GAPS_LEFT: ClassVar[int] = 8
    EXCESS_BUCKETS: ClassVar[int] = 24
    COUNTS_LEFT: ClassVar[int] = 4

    @classmethod
    def of(cls, draws: int, num_classes: int) -> "Alphabet":
        """For labels of `draws` draws over `num_classes` classes."""
        target = 1
        gap = target + cls.TARGET_BUCKETS
        count = gap + cls.PREVIOUS_BUCKETS * cls.GAPS_LEFT
        end = count + cls.EXCESS_BUCKETS * cls.COUNTS_LEFT
        header_symbols = 2 * num_symbols(min(draws, num_classes) - 1)
        return cls(0, target, gap, count, end, header_symbols, num_symbols(num_classes - 1), num_symbols(draws - 1))

    def symbols_of(self) -> np.ndarray:
        """How many symbols each context has, int64 [num_contexts]."""
        sizes = np.full(self.num_contexts, self.count_symbols, np.int64)
        sizes[self.header] = self.header_symbols
        sizes[self.gap : self.count] = self.gap_symbols
        return sizes


@dataclass(frozen=True)
class Symbols:
    """What is coded, in order: `contexts` int32 [S] (PLAIN for plain bits), `symbols` int32 [S], `widths` int32 [S]
    (plain bits), `per_label` int64 [N] (how many of S belong to each label).
    """

    contexts: np.ndarray
    symbols: np.ndarray
    widths: np.ndarray
    per_label: np.ndarray


class _Slots:
    """A table of coding units (a label's header, or one of its classes), each with room for its symbols."""

    def __init__(self, units: int) -> None:
        self.contexts = np.zeros((units, _SLOTS), np.int32)
        self.symbols = np.zeros((units, _SLOTS), np.int32)
        self.widths = np.zeros((units, _SLOTS), np.int32)
        self.used = np.zeros((units, _SLOTS), bool)

    def put(self, units: np.ndarray, slot: int, contexts: np.ndarray, values: np.ndarray, runs: int) -> None:
        """The bucket of each value in its context, and its plain bits in the `runs` slots that follow."""
        symbols, bits = bucket(values)
        self.contexts[units, slot], self.symbols[units, slot], self.used[units, slot] = contexts, symbols, True
        for run in range(runs):
            left = np.maximum(bits - PLAIN_BITS, 0)
            width = bits - left
            where, at = units[width > 0], slot + 1 + run
            self.contexts[where, at], self.widths[where, at], self.used[where, at] = PLAIN, width[width > 0], True
            self.symbols[where, at] = ((values >> left) & ((1 << width) - 1))[width > 0]
            bits = left


def label_symbols(
    ranks: np.ndarray, counts: np.ndarray, entries: np.ndarray, is_target: np.ndarray, draws: int, alphabet: Alphabet
) -> Symbols:
    """The symbols of N labels.

    `ranks` int64 [E], `counts` int64 [E] and `is_target` bool [E] (at most one in a label) of all entries,
    `entries` int64 [N] how many each label has (at least one). The order of entries within a label does not matter.
    """
    num_labels = len(entries)
    label = np.repeat(np.arange(num_labels), entries)
    flagged = np.zeros(num_labels, bool)
    flagged[label[is_target]] = True
    target_count = np.zeros(num_labels, np.int64)
    target_count[label[is_target]] = counts[is_target]
    others = _sorted(label[~is_target], ranks[~is_target], counts[~is_target])
    label, ranks, counts = others
    left_of = entries - flagged
    first_unit = np.cumsum(left_of) - left_of + np.arange(num_labels)  # a header before each label's classes
    slots = _Slots(num_labels + len(label))
    size, _ = bucket(entries - 1)
    slots.put(first_unit, 0, np.full(num_labels, alphabet.header), entries - 1, runs=2)
    slots.symbols[first_unit, 0] = 2 * size + flagged
    said = np.flatnonzero(flagged & (entries > 1) & (draws > entries))
    context = alphabet.target + np.minimum(size, Alphabet.TARGET_BUCKETS - 1)
    slots.put(first_unit[said], 4, context[said], target_count[said] - 1, runs=2)
    _put_others(slots, label, ranks, counts, left_of, first_unit, draws - target_count, alphabet)
    used = slots.used.ravel()
    per_unit = slots.used.sum(1)
    units_of = np.cumsum(per_unit)[first_unit + left_of]
    return Symbols(
        slots.contexts.ravel()[used],
        slots.symbols.ravel()[used],
        slots.widths.ravel()[used],
        np.diff(units_of, prepend=0),
    )


def _sorted(label: np.ndarray, ranks: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.lexsort((ranks, label))
    return label[order], ranks[order].astype(np.int64), counts[order].astype(np.int64)


def _put_others(
    slots: _Slots,
    label: np.ndarray,
    ranks: np.ndarray,
    counts: np.ndarray,
    left_of: np.ndarray,
    first_unit: np.ndarray,
    sum_of: np.ndarray,
    alphabet: Alphabet,
) -> None:
    """Gap and count of every class but the hard label's; `sum_of` [N] is what their counts sum to."""
    if not len(label):
        return
    start = np.cumsum(left_of) - left_of
    place = np.arange(len(label)) - start[label]
    units = first_unit[label] + 1 + place
    before = np.where(place > 0, np.concatenate([[0], ranks[:-1]]), -1)
    left = left_of[label] - place
    size, _ = bucket(before + 1)
    context = np.minimum(size, Alphabet.PREVIOUS_BUCKETS - 1) * Alphabet.GAPS_LEFT
    context += np.minimum(left, Alphabet.GAPS_LEFT) - 1
    slots.put(units, 0, alphabet.gap + context, ranks - before - 1, runs=3)
    taken = np.cumsum(counts) - counts
    excess = sum_of[label] - (taken - taken[start[label]]) - left
    said = np.flatnonzero((excess > 0) & (left > 1))
    size, _ = bucket(excess[said])
    context = np.minimum(size, Alphabet.EXCESS_BUCKETS - 1) * Alphabet.COUNTS_LEFT
    context += np.minimum(left[said] - 2, Alphabet.COUNTS_LEFT - 1)
    slots.put(units[said], 4, alphabet.count + context, counts[said] - 1, runs=2)
