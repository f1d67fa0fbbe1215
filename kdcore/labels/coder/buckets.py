"""Non-negative integers as a symbol of a small alphabet and a few plain bits.

Up to 3 the symbol is the number. From there each power of two has four symbols, and the bits below the two that chose
the symbol follow as they are: 4 symbols an octave lose little against coding each number by itself.
"""

import numpy as np

__all__ = ["bucket", "num_symbols"]


def bucket(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and numbers of plain bits, int64 [n] each, of `values` int64 [n] in [0, 2^53)."""
    _, exponents = np.frexp(np.maximum(values, 4).astype(np.float64))
    shift = exponents.astype(np.int64) - 3
    symbols = np.where(values < 4, values, 4 * (shift + 1) + (values >> shift) - 4)
    return symbols, np.where(values < 4, 0, shift)


def num_symbols(largest: int) -> int:
    """Symbols that the numbers 0 .. largest need."""
    symbols, _ = bucket(np.array([largest], np.int64))
    return int(symbols[0]) + 1
