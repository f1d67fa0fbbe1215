"""Where tokens lie in the bytes of a text, in about half a byte each.

Of a token are kept how many bytes it has, and how many bytes without a label lie between it and the one before. A code
of four bits says 0 to 13 bytes and no gap; 15 says no gap and a number to come, the bytes beyond 13; 14 says two
numbers to come, gap and bytes. A number is v // 255 bytes of 255, and one of v mod 255. The codes of a row come first,
two a byte, the first in the low bits; then its numbers, in order.
"""

import numpy as np

from kdcore.errors import LabelError

__all__ = ["least_bytes", "pack_places", "unpack_places"]

_GAP, _LONG = 14, 15
_LIMIT = 1 << 40  # bytes of a text


def least_bytes(num_tokens: np.ndarray) -> np.ndarray:
    """What tokens take at least, int [R]."""
    return (num_tokens + 1) // 2


def pack_places(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Tokens of the bytes begins .. ends - 1, int [N] each, as uint8; LabelError unless they rise."""
    sizes, gaps = ends - begins, begins - np.append(0, ends)[: len(begins)]
    if (sizes < 0).any() or (gaps < 0).any():
        raise LabelError("tokens must lie one after the other in their text: it is another text than theirs")
    codes = np.where(gaps > 0, _GAP, np.where(sizes < _GAP, sizes, _LONG)).astype(np.uint8)
    numbers = np.stack([gaps, sizes - (codes == _LONG) * _GAP], 1)
    said = np.stack([codes == _GAP, codes >= _GAP], 1)
    return np.concatenate([_paired(codes), _as_bytes(numbers[said])])


def unpack_places(packed: np.ndarray, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends int64 [N] of the tokens of a row; LabelError where the bytes are not of so many tokens."""
    split = (num_tokens + 1) // 2
    pairs = packed[:split]
    codes = np.stack([pairs & 15, pairs >> 4], 1).ravel()
    if len(pairs) < split or codes[num_tokens:].any():
        raise _damaged(num_tokens)
    codes = codes[:num_tokens]
    said = np.stack([codes == _GAP, codes >= _GAP], 1)
    numbers = np.stack([np.zeros(num_tokens, np.int64), codes.astype(np.int64)], 1)
    numbers[said] = _as_numbers(packed[split:], int(said.sum()), num_tokens)
    numbers[:, 1] += (codes == _LONG) * _GAP
    ends = np.cumsum(numbers.sum(1))
    if len(ends) and ends[-1] > _LIMIT:
        raise _damaged(num_tokens)
    return ends - numbers[:, 1], ends


def _paired(codes: np.ndarray) -> np.ndarray:
    low, high = codes[::2], codes[1::2]
    packed = low.copy()
    packed[: len(high)] |= high << 4
    return packed


def _as_bytes(numbers: np.ndarray) -> np.ndarray:
    last = np.cumsum(numbers // 255 + 1) - 1
    packed = np.full(last[-1] + 1 if len(last) else 0, 255, np.uint8)
    packed[last] = numbers % 255
    return packed


def _as_numbers(packed: np.ndarray, count: int, num_tokens: int) -> np.ndarray:
    last = np.flatnonzero(packed < 255)
    if len(last) != count or (len(packed) and packed[-1] == 255):
        raise _damaged(num_tokens)
    return np.diff(last, prepend=-1) * 255 - 255 + packed[last]


def _damaged(num_tokens: int) -> LabelError:
    return LabelError(f"the sizes of a text's tokens are not those of {num_tokens} tokens: the shard was altered")
