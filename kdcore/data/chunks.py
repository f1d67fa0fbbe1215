"""Documents cut into the sequences a student trains on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdcore.config.training import LongDocuments
from kdcore.errors import ConfigError, DataError

__all__ = ["Chunk", "Chunks", "Masked", "make_chunks", "settle_long"]


class Chunk(NamedTuple):
    """Inputs tokens[start:stop] of a row, targets within tokens[start+1:stop+1], labels first..last-1 of the row."""

    row: int
    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class Chunks:
    """All chunks of a corpus: `rows`, `starts`, `stops`, `firsts`, `lasts`, int64 [N] each."""

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Chunk:
        return Chunk(*(int(values[index]) for values in vars(self).values()))

    def of(self, indices: np.ndarray) -> list[Chunk]:
        """Several, by number."""
        columns = (values[indices].tolist() for values in vars(self).values())
        return [Chunk(*values) for values in zip(*columns, strict=True)]

    @property
    def num_labels(self) -> int:
        """Labels over all chunks: each label of each occurrence of a row once."""
        return int((self.lasts - self.firsts).sum())


class Masked(NamedTuple):
    """Rows of which not every token is labelled: labels of each, int [R], and what gives the positions of a row's."""

    num_labels: np.ndarray
    positions: Callable[[int], np.ndarray]


def settle_long(
    num_tokens: np.ndarray, occurrences: np.ndarray, sequence_length: int, rule: LongDocuments
) -> tuple[np.ndarray, tuple[str, ...]]:
    """How often each row is trained on, int64 [R], and what to say of those that make more than one chunk.

    Raises DataError when there are such rows and the rule is to refuse them.
    """
    occurrences = np.asarray(occurrences, dtype=np.int64)
    long = (np.asarray(num_tokens) - 1 > sequence_length) & (occurrences > 0)
    if not long.any():
        return occurrences, ()
    found = (
        f"documents longer than training.sequence_length ({sequence_length}): {int(occurrences[long].sum()):,} of "
        f"{int(occurrences.sum()):,}, the longest has {int(np.max(num_tokens)):,} tokens"
    )
    if rule == "refuse":
        raise DataError(
            f"no document is cut unless the recipe says so, but there are {found}; raise training.sequence_length, or "
            "set training.long_documents to 'cut' (every token is trained on, a later piece without what came before "
            "it) or to 'drop'"
        )
    if rule == "drop":
        return np.where(long, 0, occurrences), (f"{found}; they are dropped",)
    return occurrences, (f"{found}; they are cut, and a later piece does not see what came before it",)


def make_chunks(
    num_tokens: np.ndarray, occurrences: np.ndarray, sequence_length: int, masked: Masked | None = None
) -> Chunks:
    """Cuts rows into chunks of at most `sequence_length` inputs that do not overlap.

    num_tokens: tokens of each row, int [R]; occurrences: how often each row occurs in the data, int [R]: its
    chunks are repeated as often. A chunk without a label is left out, so rows of fewer than two tokens give none. The
    positions of a `masked` row are asked for only if it is longer than a chunk.
    """
    if sequence_length < 1:
        raise ConfigError(f"training.sequence_length must be at least 1, got {sequence_length}")
    lengths = np.maximum(np.asarray(num_tokens, dtype=np.int64) - 1, 0)
    per_row = -(-lengths // sequence_length)
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64), per_row)
    nth = np.arange(len(rows), dtype=np.int64) - (np.cumsum(per_row) - per_row)[rows]
    starts = nth * sequence_length
    stops = np.minimum(starts + sequence_length, lengths[rows])
    firsts, lasts = (starts, stops) if masked is None else _labels_of_chunks(rows, starts, stops, lengths, masked)
    return _repeated(Chunks(rows, starts, stops, firsts, lasts), np.asarray(occurrences, dtype=np.int64))


def _labels_of_chunks(
    rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, lengths: np.ndarray, masked: Masked
) -> tuple[np.ndarray, np.ndarray]:
    num_labels = np.asarray(masked.num_labels, dtype=np.int64)
    alone = (starts == 0) & (stops == lengths[rows])
    firsts, lasts = np.where(alone, 0, starts), np.where(alone, num_labels[rows], stops)
    looked_up = ~alone & (num_labels != lengths)[rows]
    begins = np.flatnonzero(looked_up & (starts == 0))
    for begin in begins.tolist():  # the chunks of one row stand together
        here = slice(begin, begin + int(np.searchsorted(rows[begin:], rows[begin], "right")))
        positions = masked.positions(int(rows[begin]))
        firsts[here], lasts[here] = np.searchsorted(positions, starts[here]), np.searchsorted(positions, stops[here])
    return firsts, lasts


def _repeated(chunks: Chunks, occurrences: np.ndarray) -> Chunks:
    """Those with labels; all of a row, then all of it again as often as it occurs."""
    kept = np.flatnonzero(chunks.lasts > chunks.firsts)
    per_row = np.bincount(chunks.rows[kept], minlength=len(occurrences))
    repeats = per_row * occurrences
    rows = np.repeat(np.arange(len(occurrences), dtype=np.int64), repeats)
    nth = np.arange(len(rows), dtype=np.int64) - (np.cumsum(repeats) - repeats)[rows]
    first_kept = np.cumsum(per_row) - per_row
    order = kept[first_kept[rows] + nth % per_row[rows]]
    return Chunks(*(values[order] for values in vars(chunks).values()))
