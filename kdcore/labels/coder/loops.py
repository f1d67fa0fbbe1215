"""The coder's inner loops, compiled by numba on first use and cached beside this file. Needs the extra `fast`.

Without branches where a state takes in a word: whether it does is a coin toss that no processor predicts. Unsigned
everywhere: numba lets a signed index count from the end, and tests for it each time.
"""

import numpy as np

from kdcore.labels.coder.jit import jit
from kdcore.labels.coder.layout import COARSE_BITS
from kdcore.labels.coder.loops_write import label_pieces

__all__ = ["decode_blocks", "encode_blocks", "label_pieces"]

_jit = jit()
# Inlined before types are known: a call that hands on a tuple of arrays copies all of them.
_inline = jit(inline="always")
U64 = np.uint64


def encode_blocks(frequencies: np.ndarray, starts: np.ndarray, per_block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See `rans.encode_blocks`."""
    words = np.empty(len(frequencies) + 2 * len(per_block), np.uint16)
    sizes = np.empty(len(per_block), np.int32)
    total = _encode(frequencies, starts, per_block, words, sizes)
    return words[:total].copy(), sizes


@_jit
def _encode(frequencies, starts, per_block, words, sizes):  # noqa: ANN001, ANN202  numba infers the types
    end_of_symbols = 0
    out = 0
    for block in range(per_block.shape[0]):
        first = end_of_symbols
        end_of_symbols += per_block[block]
        x = U64(65536)
        begin = out
        for at in range(end_of_symbols - 1, first - 1, -1):
            frequency = U64(frequencies[at])
            if x >= frequency << U64(20):
                words[out] = x & U64(0xFFFF)
                out += 1
                x >>= U64(16)
            x = ((x // frequency) << U64(12)) + x % frequency + U64(starts[at])
        words[out] = x & U64(0xFFFF)
        words[out + 1] = x >> U64(16)
        out += 2
        low, high = begin, out - 1
        while low < high:
            words[low], words[high] = words[high], words[low]
            low += 1
            high -= 1
        sizes[block] = out - begin
    return out


@_jit
def _plain(x, words, at, end, bits):  # noqa: ANN001, ANN202
    """`bits` plain bits: value, state, position."""
    value = U64(0)
    while bits > U64(0):
        width = min(bits, U64(12))
        shift = U64(12) - width
        slot = x & U64(4095)
        x = ((x >> U64(12)) << shift) + (slot & ((U64(1) << shift) - U64(1)))
        need = U64(x < U64(65536))
        x = (x << (need << U64(4))) | (U64(words[at]) * need)
        at += need & U64(at < end)
        value = (value << width) | (slot >> shift)
        bits -= width
    return value, x, at


@_jit
def _symbol(x, words, at, end, context, symbols, starts):  # noqa: ANN001, ANN202
    """One symbol: symbol, state, position."""
    slot = x & U64(4095)
    symbol = U64(symbols[context, slot >> U64(COARSE_BITS)])
    while slot >= U64(starts[context, symbol + U64(1)]):
        symbol += U64(1)
    start = U64(starts[context, symbol])
    x = (U64(starts[context, symbol + U64(1)]) - start) * (x >> U64(12)) + slot - start
    need = U64(x < U64(65536))
    x = (x << (need << U64(4))) | (U64(words[at]) * need)
    at += need & U64(at < end)
    return symbol, x, at


@_jit
def _value(x, words, at, end, context, symbols, starts):  # noqa: ANN001, ANN202
    """A bucketed number: number, state, position."""
    symbol, x, at = _symbol(x, words, at, end, context, symbols, starts)
    if symbol < U64(8):
        return symbol, x, at
    shift = (symbol >> U64(2)) - U64(1)
    rest, x, at = _plain(x, words, at, end, shift)
    return ((U64(4) + (symbol & U64(3))) << shift) + rest, x, at


@_inline
def _header(x, words, at, end, tables):  # noqa: ANN001, ANN202
    """How many classes a label has, whether the hard label is among them, the bucket of the number, state, position."""
    header, x, at = _symbol(x, words, at, end, U64(0), tables.symbols, tables.starts)
    size = header >> U64(1)
    n = size
    if size >= U64(8):
        shift = (size >> U64(2)) - U64(1)
        rest, x, at = _plain(x, words, at, end, shift)
        n = ((U64(4) + (size & U64(3))) << shift) + rest
    return n + U64(1), header & U64(1), size, x, at


@_inline
def _target(x, words, at, end, n, size, draws, tables):  # noqa: ANN001, ANN202
    """The count of the hard label, state, position; more than it can be for a damaged one."""
    if n == U64(1):
        return draws, x, at
    if draws == n:
        return U64(1), x, at
    context = U64(tables.target_context) + min(size, U64(tables.target_cap))
    count, x, at = _value(x, words, at, end, context, tables.symbols, tables.starts)
    return count + U64(1), x, at


@_inline
def _others(x, words, at, end, left, left_sum, tables, ids, weights, unit, out):  # noqa: ANN001, ANN202
    """All classes but the hard label: whether they are right, next place, state, position."""
    one = U64(1)
    gaps_left, counts_left = U64(tables.gaps_left), U64(tables.counts_left)
    place = U64(0)  # the next free rank
    while left > U64(0):
        context = U64(tables.gap_contexts[place]) + min(left, gaps_left)
        gap, x, at = _value(x, words, at, end, context, tables.symbols, tables.starts)
        rank = place + gap
        if rank >= U64(tables.ids_by_rank.shape[0]):
            return False, out, x, at
        place = rank + one
        count = one
        if left == one:
            count = left_sum
        elif left_sum > left:
            context = U64(tables.count_contexts[left_sum - left]) + min(left, counts_left)
            count, x, at = _value(x, words, at, end, context, tables.symbols, tables.starts)
            count += one
            if count > left_sum - left + one:
                return False, out, x, at
        left_sum -= count
        ids[out] = tables.ids_by_rank[rank]
        weights[out] = np.float32(count) * unit
        out += one
        left -= one
    return left_sum == U64(0), out, x, at


@_jit
def decode_blocks(words, blocks, targets, draws, tables, ids, weights, entries):  # noqa: ANN001, ANN201
    """The wanted labels of each block; returns how many entries, or -1 - b for a damaged block b.

    `blocks` and `tables` are named tuples, see `blocks.py`. `words` has one word more than the blocks use: the position
    never leaves its block, but the word there is read.
    """
    classes = np.int64(tables.ids_by_rank.shape[0])
    draws = U64(draws)
    unit = np.float32(1.0 / draws)
    one = U64(1)
    out, label_out, label_in = U64(0), U64(0), U64(0)
    for block in range(U64(blocks.first_word.shape[0])):
        bad = -1 - np.int64(block)
        if blocks.num_words[block] < 2:
            return bad
        at = U64(blocks.first_word[block])
        end = at + U64(blocks.num_words[block])
        x = (U64(words[at]) << U64(16)) | U64(words[at + one])
        at += U64(2)
        first, stop = U64(blocks.skip[block]), U64(blocks.skip[block] + blocks.take[block])
        for number in range(stop):
            begin = out
            n, flag, size, x, at = _header(x, words, at, end, tables)
            if n > draws or n > U64(classes):
                return bad
            left_sum = draws
            if flag:
                target = targets[label_in + number]
                count, x, at = _target(x, words, at, end, n, size, draws, tables)
                if target < 0 or target >= classes or count > draws - n + one:
                    return bad
                ids[out] = target
                weights[out] = np.float32(count) * unit
                out += one
                left_sum -= count
            right, out, x, at = _others(x, words, at, end, n - flag, left_sum, tables, ids, weights, unit, out)
            if not right:
                return bad
            if number >= first:
                entries[label_out] = out - begin
                label_out += one
            else:
                out = begin
        if stop == U64(blocks.num_labels[block]) and (x != U64(65536) or at != end):
            return bad
        label_in += U64(blocks.num_labels[block])
    return np.int64(out)
