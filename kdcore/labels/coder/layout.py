"""What every part of the coder must agree on: the numbers of the format, and where the blocks of a read lie."""

from typing import NamedTuple

import numpy as np

__all__ = ["BLOCK_LABELS", "COARSE_BITS", "FIRST_STATE", "PLAIN", "PLAIN_BITS", "SCALE_BITS", "Block"]

BLOCK_LABELS = 128
SCALE_BITS = 12
"""Frequencies of a context sum to 2^12."""
FIRST_STATE = 1 << 16
PLAIN = -1
"""The context of plain bits; their symbol is the value."""
PLAIN_BITS = 12
COARSE_BITS = 4
"""The decoder looks up the symbol of every 2^4th slot, and goes on from there."""


class Block(NamedTuple):
    """Some blocks of words: arrays over blocks, int64 [B]; `skip` labels are passed over, `take` are wanted."""

    first_word: np.ndarray
    num_words: np.ndarray
    num_labels: np.ndarray
    skip: np.ndarray
    take: np.ndarray

    def part(self, index: slice) -> "Block":
        """Some of the blocks."""
        return Block(*(column[index] for column in self))
