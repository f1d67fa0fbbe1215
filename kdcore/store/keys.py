"""Rows by key, without a Python object for each row: 16-byte keys sorted by their first 8 bytes, and bisection."""

from collections.abc import Iterable

import numpy as np

__all__ = ["KeyTable"]


class KeyTable:
    """Keys uint64 [R, 2], looked up by `find`; sorting 10 million takes about a second, done once."""

    def __init__(self, keys: np.ndarray) -> None:
        self._order = np.lexsort((keys[:, 1], keys[:, 0]))
        self._first, self._second = keys[self._order, 0], keys[self._order, 1]

    def find(self, key: bytes) -> int:
        """The row of a key, -1 when there is none."""
        return int(self.find_all([key])[0])

    def find_all(self, keys: Iterable[bytes]) -> np.ndarray:
        """The row of each key, int64; -1 where there is none. Anything but 16 bytes is no key."""
        listed = [key if len(key) == 16 else None for key in keys]
        words = np.frombuffer(b"".join(key or bytes(16) for key in listed), np.uint64).reshape(-1, 2)
        low, high = np.searchsorted(self._first, words[:, 0]), np.searchsorted(self._first, words[:, 0], "right")
        rows = np.full(len(words), -1, np.int64)
        for place in np.flatnonzero(high > low):
            # Two digests that share 8 bytes are as good as never seen, but they are not the same sample.
            inner = int(low[place]) + int(np.searchsorted(self._second[low[place] : high[place]], words[place, 1]))
            if listed[place] is not None and inner < high[place] and self._second[inner] == words[place, 1]:
                rows[place] = self._order[inner]
        return rows

    def repeated(self) -> np.ndarray:
        """One row of each key that several rows share, int64."""
        same = (self._first[1:] == self._first[:-1]) & (self._second[1:] == self._second[:-1])
        begins = same & ~np.concatenate([[False], same[:-1]]) if len(same) else same
        return self._order[:-1][begins] if len(same) else np.empty(0, np.int64)
