"""Two tokenizations of one text, joined where both end a token after the same byte."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdcore.errors import LabelError

__all__ = ["Alignment", "Tokens", "WholeChunks", "align", "whole_chunks"]


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


class Tokens(NamedTuple):
    """One side: each token is the bytes begins .. ends - 1 of the text, int [T] each, rising."""

    begins: np.ndarray
    ends: np.ndarray


class WholeChunks(NamedTuple):
    """C chunks of two sides, and which of them are `whole`, bool [C]: all of their bytes are there on both.

    `begins` and `ends` int64 [C] are their bytes; `opening` (first and second side) int64 [C] the token that begins a
    chunk, where it is whole, and `after` the one that begins where it ends, -1 where there is none.
    """

    alignment: Alignment
    whole: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    opening: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]


def whole_chunks(first: Tokens, second: Tokens) -> WholeChunks:
    """The chunks of tokens of one text, of which both sides may lack some. LabelError for ends that fall."""
    found = align(first.ends, second.ends)
    one, other = (_side(side, chunk, found.ends) for side, chunk in ((first, found.first), (second, found.second)))
    whole = one.whole & other.whole & (one.begins == other.begins)
    return WholeChunks(found, whole, other.begins, found.ends, (one.opening, other.opening), (one.after, other.after))


class _Side(NamedTuple):
    begins: np.ndarray
    whole: np.ndarray
    opening: np.ndarray
    after: np.ndarray


def _side(tokens: Tokens, chunk: np.ndarray, chunk_ends: np.ndarray) -> _Side:
    places = np.arange(len(chunk_ends))
    kept = chunk[chunk >= 0]
    opening = np.searchsorted(kept, places)
    begins = tokens.begins[opening]
    sizes = np.bincount(kept, (tokens.ends - tokens.begins)[: len(kept)], minlength=len(places))
    after = np.searchsorted(kept, places, "right")
    follows = after < len(tokens.begins)
    follows[follows] = tokens.begins[after[follows]] == chunk_ends[follows]
    return _Side(begins, sizes == chunk_ends - begins, opening, np.where(follows, after, -1))


def _chunk_of(ends: np.ndarray, common: np.ndarray) -> np.ndarray:
    """The first common end that is not before a token's own."""
    chunk = np.searchsorted(common, ends)
    return np.where(chunk < len(common), chunk, -1)
