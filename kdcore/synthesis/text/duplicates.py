"""Texts that are nearly one another: MinHash over shingles of tokens, compared where a band of hashes is the same.

A shingle is a run of k tokens. The least of a text's hashed shingles under one hash function is that of another text
with the probability of their likeness, shared shingles over all of both (Jaccard; Broder 1997). With b bands of r
functions each, two texts of likeness s are compared with probability 1 - (1 - s^r)^b; who is compared is then measured
by all of its functions.
"""

import numpy as np

from kdcore.identity import mix

__all__ = ["NearDuplicates", "runs_of", "shingles"]

_BANDS, _ROWS = 16, 4
_FUNCTIONS = _BANDS * _ROWS
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def runs_of(tokens: np.ndarray, size: int) -> np.ndarray:
    """The runs of `size` tokens of a text int [T], at least one token, as hashes uint64; of a shorter text itself."""
    windows = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), min(size, len(tokens)))
    found = np.zeros(len(windows), np.uint64)
    with np.errstate(over="ignore"):
        for column in windows.T:
            found = mix(found + _GOLDEN + column)
    return found


def shingles(tokens: np.ndarray, size: int) -> np.ndarray:
    """The distinct ones of `runs_of`, rising."""
    return np.unique(runs_of(tokens, size))


class NearDuplicates:
    """Remembers texts by 64 hashes each; deterministic: no hash depends on a process."""

    def __init__(self, likeness: float, size: int) -> None:
        self._likeness, self._size = likeness, size
        with np.errstate(over="ignore"):
            self._salts = mix(np.arange(1, _FUNCTIONS + 1, dtype=np.uint64) * _GOLDEN)
        self._signatures: list[np.ndarray] = []
        self._buckets: list[dict[bytes, list[int]]] = [{} for _ in range(_BANDS)]

    def add(self, tokens: np.ndarray) -> float | None:
        """Remember a text int [T], at least one token; its likeness to an earlier one that it is too like, else None.

        A text that is too like another is not remembered, so that a chain of small changes does not take all.
        """
        signature = self._signature(tokens)
        bands = [signature[band * _ROWS : (band + 1) * _ROWS].tobytes() for band in range(_BANDS)]
        met = {other for bucket, key in zip(self._buckets, bands, strict=True) for other in bucket.get(key, ())}
        if met:
            others = np.stack([self._signatures[other] for other in sorted(met)])
            nearest = float((others == signature).mean(1).max())
            if nearest >= self._likeness:
                return nearest
        for bucket, key in zip(self._buckets, bands, strict=True):
            bucket.setdefault(key, []).append(len(self._signatures))
        self._signatures.append(signature)
        return None

    def _signature(self, tokens: np.ndarray) -> np.ndarray:
        """The least of the hashed shingles under each function, uint64 [64]."""
        return mix(shingles(tokens, self._size)[None] ^ self._salts[:, None]).min(1)
