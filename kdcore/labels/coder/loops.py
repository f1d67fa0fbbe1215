"""The coder's inner loops, compiled by numba on first use and cached beside this file. Needs the extra `fast`.

Without branches where a state takes in a word: whether it does is a coin toss that no processor predicts. Unsigned
everywhere: numba lets a signed index count from the end, and tests for it each time.
"""

import numba
import numpy as np

from kdcore.labels.coder.model import COARSE_BITS

__all__ = ["decode_blocks", "encode_blocks"]

_jit = numba.njit(cache=True, nogil=True)
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


@_jit
def decode_blocks(  # noqa: ANN201
    words,  # noqa: ANN001
    first_word,  # noqa: ANN001
    num_words,  # noqa: ANN001
    num_labels,  # noqa: ANN001
    skip,  # noqa: ANN001
    take,  # noqa: ANN001
    targets,  # noqa: ANN001
    draws,  # noqa: ANN001
    ids_by_rank,  # noqa: ANN001
    gap_context,  # noqa: ANN001
    count_context,  # noqa: ANN001
    caps,  # noqa: ANN001
    symbols,  # noqa: ANN001
    starts,  # noqa: ANN001
    ids,  # noqa: ANN001
    weights,  # noqa: ANN001
    entries,  # noqa: ANN001
):
    """Labels skip[b] .. skip[b] + take[b] - 1 of each block; returns how many entries, or -1 - b for a damaged block.

    `words` has one word more than the blocks use: the position never leaves its block, but the word there is read.
    """
    classes = np.int64(ids_by_rank.shape[0])
    num_classes = U64(classes)
    draws = U64(draws)
    unit = np.float32(1.0 / draws)
    target_context, target_cap, gaps_left, counts_left = U64(caps[0]), U64(caps[1]), U64(caps[2]), U64(caps[3])
    one = U64(1)
    out = U64(0)
    label_out = U64(0)
    label_in = U64(0)
    for block in range(U64(first_word.shape[0])):
        bad = -1 - np.int64(block)
        if num_words[block] < 2:
            return bad
        at = U64(first_word[block])
        end = at + U64(num_words[block])
        x = (U64(words[at]) << U64(16)) | U64(words[at + one])
        at += U64(2)
        first, stop = U64(skip[block]), U64(skip[block] + take[block])
        for number in range(stop):
            begin = out
            header, x, at = _symbol(x, words, at, end, U64(0), symbols, starts)
            flag = header & one
            size = header >> one
            n = size
            if size >= U64(8):
                shift = (size >> U64(2)) - one
                rest, x, at = _plain(x, words, at, end, shift)
                n = ((U64(4) + (size & U64(3))) << shift) + rest
            n += one
            left_sum = draws
            if n > draws or n > num_classes:
                return bad
            if flag:
                target = targets[label_in + number]
                count = one
                if n == one:
                    count = draws
                elif draws > n:
                    count, x, at = _value(x, words, at, end, target_context + min(size, target_cap), symbols, starts)
                    count += one
                if target < 0 or target >= classes or count > draws - n + one:
                    return bad
                ids[out] = target
                weights[out] = np.float32(count) * unit
                out += one
                left_sum -= count
            place = U64(0)  # the next free rank
            left = n - flag
            while left > U64(0):
                context = U64(gap_context[place]) + min(left, gaps_left)
                gap, x, at = _value(x, words, at, end, context, symbols, starts)
                rank = place + gap
                if rank >= num_classes:
                    return bad
                place = rank + one
                count = one
                if left == one:
                    count = left_sum
                elif left_sum > left:
                    context = U64(count_context[left_sum - left]) + min(left, counts_left)
                    count, x, at = _value(x, words, at, end, context, symbols, starts)
                    count += one
                    if count > left_sum - left + one:
                        return bad
                left_sum -= count
                ids[out] = ids_by_rank[rank]
                weights[out] = np.float32(count) * unit
                out += one
                left -= one
            if left_sum != U64(0):
                return bad
            if number >= first:
                entries[label_out] = out - begin
                label_out += one
            else:
                out = begin
        if stop == U64(num_labels[block]) and (x != U64(65536) or at != end):
            return bad
        label_in += U64(num_labels[block])
    return np.int64(out)
