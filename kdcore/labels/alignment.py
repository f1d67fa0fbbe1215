"""Two tokenizations of one text, joined where both end a token after the same byte."""

from dataclasses import dataclass

import numpy as np

from kdcore.errors import LabelError

__all__ = ["Alignment", "align"]


@dataclass(frozen=True)
class Alignment:
    """C chunks, the smallest that both tokenizations can be cut into; each has a token of either side at least.

    `first` int64 [T1] and `second` int64 [T2] are the chunk of each token, rising; -1 after the last common end, where
    there is no chunk. `ends` int64 [C] are the bytes after which the chunks end.
    """

    first: np.ndarray
    second: np.ndarray
    ends: np.ndarray

    @property
    def num_chunks(self) -> int:
        """C."""
        return len(self.ends)


def align(first: np.ndarray, second: np.ndarray) -> Alignment:
    """Chunks of the tokens that end after the bytes `first` int [T1] and `second` int [T2] of one text, not falling.

    A token without a byte of its own ends where the one before it does, and is in its chunk. LabelError for ends that
    fall.
    """
    first, second = (np.asarray(ends, np.int64) for ends in (first, second))
    for ends in (first, second):
        if (np.diff(ends) < 0).any():
            raise LabelError("the bytes after which tokens end must not fall: tokens and text do not belong together")
    common = np.intersect1d(first, second)
    return Alignment(_chunk_of(first, common), _chunk_of(second, common), common)


def _chunk_of(ends: np.ndarray, common: np.ndarray) -> np.ndarray:
    """The first common end that is not before a token's own."""
    chunk = np.searchsorted(common, ends)
    return np.where(chunk < len(common), chunk, -1)
