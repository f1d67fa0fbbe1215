"""Sets of k class ids below V in a fixed number of bits (Elias, 1974; Fano, 1971).

The low l bits of each id are kept as they are. The high parts h_0 <= h_1 <= ... rise, so that h_i + i are different
numbers, which are kept as bits set in a field of k + floor((V - 1) / 2^l) bits. l is the least of those with the fewest
bits in all. Ten of 1,000 ids take 85 bits, where ten numbers of 10 bits take 100, and log2 of all such sets is 78.
"""

import numpy as np

from kdcore.errors import LabelError

__all__ = ["bytes_of_ids", "pack_ids", "unpack_ids"]


def bytes_of_ids(k: int, num_classes: int) -> int:
    """Bytes of one set."""
    low, high = _bits(k, num_classes)
    return -(-(high + k * low) // 8)


def pack_ids(ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Sets of ids, int [N, k] and rising in each row, to uint8 [N, bytes]: high parts first, lowest bits first."""
    num, k = ids.shape
    low, high = _bits(k, num_classes)
    bits = np.zeros((num, 8 * bytes_of_ids(k, num_classes)), np.uint8)
    bits[np.arange(num)[:, None], (ids >> low) + np.arange(k)] = 1
    bits[:, high : high + k * low] = (ids[:, :, None] >> np.arange(low) & 1).reshape(num, k * low)
    return np.packbits(bits, axis=1, bitorder="little")


def unpack_ids(packed: np.ndarray, k: int, num_classes: int) -> np.ndarray:
    """Sets from uint8 [N, bytes] to int64 [N, k], rising in each row; LabelError when they are no such sets."""
    num = len(packed)
    low, high = _bits(k, num_classes)
    bits = np.unpackbits(packed, axis=1, bitorder="little")
    if (bits[:, :high].sum(1, dtype=np.int64) != k).any():
        raise LabelError(f"a stored label must name {k} classes, but one does not: the shard was altered")
    parts = np.nonzero(bits[:, :high])[1].reshape(num, k) - np.arange(k)
    rest = bits[:, high : high + k * low].reshape(num, k, low) @ (1 << np.arange(low, dtype=np.int64))
    ids = (parts << low) + rest
    if num and (ids.max() >= num_classes or (np.diff(ids, axis=1) <= 0).any()):
        raise LabelError(
            f"the {k} class ids of a stored label must rise and be below {num_classes}, but one label's do not: the "
            "shard was altered"
        )
    return ids


def _bits(k: int, num_classes: int) -> tuple[int, int]:
    """Low bits of each id, and bits of all high parts together."""
    last = num_classes - 1
    low = min(range(last.bit_length() + 1), key=lambda bits: (last >> bits) + k * bits)
    return low, (last >> low) + k
