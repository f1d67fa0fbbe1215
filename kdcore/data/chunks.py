"""Documents cut into the sequences a student trains on."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdcore.errors import ConfigError


class Chunk(NamedTuple):
    """Inputs tokens[start:stop] of a row, targets tokens[start+1:stop+1], labels start..stop-1."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Chunks:
    """All chunks of a corpus: `rows`, `starts`, `stops`, int64 [N] each."""

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Chunk:
        return Chunk(int(self.rows[index]), int(self.starts[index]), int(self.stops[index]))

    @property
    def num_labels(self) -> int:
        """Label positions over all chunks: each label of each occurrence of a row once."""
        return int((self.stops - self.starts).sum())


def make_chunks(num_tokens: np.ndarray, occurrences: np.ndarray, sequence_length: int) -> Chunks:
    """Cuts rows into chunks of at most `sequence_length` inputs that do not overlap.

    num_tokens: tokens of each row, int [R]; occurrences: how often each row occurs in the data, int [R]: its
    chunks are repeated as often. Rows of fewer than two tokens have no label and give no chunk.
    """
    if sequence_length < 1:
        raise ConfigError(f"training.sequence_length must be at least 1, got {sequence_length}")
    labels = np.maximum(np.asarray(num_tokens, dtype=np.int64) - 1, 0)
    per_row = -(-labels // sequence_length)
    repeats = per_row * np.asarray(occurrences, dtype=np.int64)
    rows = np.repeat(np.arange(len(labels), dtype=np.int64), repeats)
    first_of_row = np.cumsum(repeats) - repeats
    nth = (np.arange(len(rows), dtype=np.int64) - first_of_row[rows]) % per_row[rows]
    starts = nth * sequence_length
    return Chunks(rows, starts, np.minimum(starts + sequence_length, labels[rows]))
