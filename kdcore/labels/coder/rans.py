"""The entropy coder: range asymmetric numeral systems (rANS; Duda, arXiv 1311.2540) with 16-bit words.

A state x in [2^16, 2^32) takes a symbol of frequency f and start c out of 2^12 by x -> (x div f) 2^12 + x mod f + c,
after giving up its low word where it would leave its range. Blocks are coded apart from each other, each from x = 2^16,
so that a decoder which ends anywhere else has read damage. A block's words begin with its last state, high word first.
"""

import numpy as np

from kdcore.labels.coder.compiled import compiled
from kdcore.labels.coder.layout import FIRST_STATE, SCALE_BITS

__all__ = ["encode_blocks"]


def encode_blocks(frequencies: np.ndarray, starts: np.ndarray, per_block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words uint16 [W] of all blocks, and how many each block has, int32 [B].

    `frequencies` and `starts` int64 [S] belong to the coded symbols, block after block, `per_block` int64 [B] of them.
    """
    fast = compiled()
    if fast is not None:
        return fast.encode_blocks(frequencies, starts, per_block)
    return _encode_in_step(frequencies, starts, per_block)


def _encode_in_step(
    frequencies: np.ndarray, starts: np.ndarray, per_block: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All blocks side by side, from their last symbols to their first: numpy's way, and the reference."""
    num_blocks = len(per_block)
    order = np.argsort(-per_block, kind="stable")  # blocks that still have symbols are always the first ones
    sizes, ends = per_block[order], np.cumsum(per_block)[order]
    longest = int(sizes[0]) if num_blocks else 0
    state = np.full(num_blocks, FIRST_STATE, np.int64)
    words = np.zeros((num_blocks, longest + 2), np.uint16)
    written = np.zeros(num_blocks, np.int64)
    for step in range(longest):
        active = int(np.searchsorted(-sizes, -step, side="left"))
        at = ends[:active] - 1 - step
        frequency, start, x = frequencies[at], starts[at], state[:active]
        spill = np.flatnonzero(x >= frequency << (32 - SCALE_BITS))
        words[spill, written[spill]] = x[spill] & 0xFFFF
        written[spill] += 1
        x[spill] >>= 16
        state[:active] = ((x // frequency) << SCALE_BITS) + x % frequency + start
    for part in (state & 0xFFFF, state >> 16):
        words[np.arange(num_blocks), written] = part
        written += 1
    back = np.empty(num_blocks, np.int64)
    back[order] = np.arange(num_blocks)
    parts = [words[row, : written[row]][::-1] for row in back]
    return np.concatenate([np.empty(0, np.uint16), *parts]), written[back].astype(np.int32)
