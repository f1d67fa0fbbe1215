"""Labels to words and back, a block of 128 labels at a time."""

from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from kdcore.errors import LabelError
from kdcore.labels.coder.compiled import compiled
from kdcore.labels.coder.in_step import decode_in_step
from kdcore.labels.coder.layout import BLOCK_LABELS, Block
from kdcore.labels.coder.model import CoderModel
from kdcore.labels.coder.rans import encode_blocks
from kdcore.labels.coder.symbols import Alphabet

__all__ = ["Decoded", "decode", "encode"]

# Room for this many entries is made at a time.
_ROOM = 1 << 25
# Symbols and runs of plain bits of a label's header with its hard label, or of one class.
_MOST_PIECES = 7
# Blocks for which another thread is worth starting (a millisecond of decoding), and how many threads at most.
_BLOCKS_A_THREAD = 16
_MOST_THREADS = 8

Decoded = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids int64 [E], weights float32 [E], entries of each label int64 [N]."""


def encode(
    model: CoderModel,
    ids: np.ndarray,
    counts: np.ndarray,
    entries: np.ndarray,
    targets: np.ndarray | None,
    num_labels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Words uint16 [W] and words of each block int32 [B], for rows of `num_labels` int64 [R] labels.

    A row begins a new block; each of its blocks but the last has 128 labels. LabelError when these are no labels.
    """
    _check(model, ids, counts, entries)
    frequencies, starts, per_label = _pieces(model, ids, counts, entries, targets)
    sizes = [_block_sizes(int(count)) for count in num_labels]
    labels = np.concatenate([np.empty(0, np.int64), *sizes])
    per_block = np.diff(np.concatenate([[0], np.cumsum(per_label)])[np.concatenate([[0], np.cumsum(labels)])])
    return encode_blocks(frequencies, starts, per_block)


def _check(model: CoderModel, ids: np.ndarray, counts: np.ndarray, entries: np.ndarray) -> None:
    right = bool((entries > 0).all()) and entries.sum() == len(ids) == len(counts)
    if right and len(ids):
        right = ids.min() >= 0 and ids.max() < model.num_classes and counts.min() > 0
        sums = np.add.reduceat(counts, np.cumsum(entries) - entries, dtype=np.int64)
        right = right and bool((sums == model.draws).all())
    if not right:
        raise LabelError(f"labels to code are {model.draws} draws each, of classes below {model.num_classes}")


def _pieces(
    model: CoderModel, ids: np.ndarray, counts: np.ndarray, entries: np.ndarray, targets: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequency and start of every symbol [S], and how many each label has [N]."""
    fast = compiled()
    if fast is None or not len(entries):
        symbols = model.symbols(ids, counts, entries, targets)
        return *model.pieces(symbols), symbols.per_label
    hard = np.full(len(entries), -1) if targets is None else targets
    frequencies, starts = (np.empty(_MOST_PIECES * (len(entries) + len(ids)), np.uint16) for _ in range(2))
    per_label = np.empty(len(entries), np.int64)
    found = fast.label_pieces(
        ids, counts, entries, hard, model.ranks, model.draws, _tables(model), frequencies, starts, per_label
    )
    if found < 0:
        raise LabelError("a label to code has a class twice")
    return frequencies[:found], starts[:found], per_label


def _block_sizes(num_labels: int) -> np.ndarray:
    full, rest = divmod(num_labels, BLOCK_LABELS)
    return np.array([BLOCK_LABELS] * full + [rest] * (rest > 0), np.int64)


def decode(model: CoderModel, words: np.ndarray, blocks: Block, targets: np.ndarray) -> Decoded:
    """The wanted labels of all blocks. `targets` int64 are the hard labels of every label of the blocks (-1: none).

    LabelError when the words of a block are damaged.
    """
    fast, num_blocks = compiled(), len(blocks.take)
    # numpy holds the interpreter's lock, and goes through all blocks side by side.
    threads = 1 if fast is None else min(torch.get_num_threads(), _MOST_THREADS, num_blocks // _BLOCKS_A_THREAD)
    step = max(1, min(_ROOM // (BLOCK_LABELS * min(model.draws, model.num_classes)), -(-num_blocks // max(1, threads))))
    ends = np.concatenate([[0], np.cumsum(blocks.num_labels)])
    padded = words if fast is None else np.append(words, np.uint16(0))

    def part(first: int) -> Decoded:
        stop = min(first + step, num_blocks)
        some, hard = blocks.part(slice(first, stop)), targets[ends[first] : ends[stop]]
        if fast is None:
            return decode_in_step(model, words, some, hard)
        return _compiled(fast, model, padded, some, hard, first)

    firsts = range(0, num_blocks, step)
    if threads <= 1:
        parts = [part(first) for first in firsts]
    else:  # threads of this call alone: a process that is forked has none of them
        with ThreadPoolExecutor(threads, thread_name_prefix="kdcore-decode") as pool:
            parts = list(pool.map(part, firsts))
    if len(parts) == 1:
        return parts[0]
    empty = np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
    ids, weights, entries = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return ids, weights, entries


def _compiled(
    fast: ModuleType, model: CoderModel, words: np.ndarray, blocks: Block, targets: np.ndarray, before: int
) -> Decoded:
    """By the compiled loops, without the interpreter's lock; `words` has one more than the blocks use."""
    num_labels = int(blocks.take.sum())
    room = int((blocks.skip + blocks.take).sum()) * min(model.draws, model.num_classes)
    ids, weights = np.empty(room, np.int64), np.empty(room, np.float32)
    entries = np.empty(num_labels, np.int64)
    found = fast.decode_blocks(words, blocks, targets, model.draws, _tables(model), ids, weights, entries)
    if found < 0:
        raise damaged(before + int(-1 - found))
    return ids[:found], weights[:found], entries


class _Tables(NamedTuple):
    """What the loops need of a model."""

    ids_by_rank: np.ndarray
    symbols: np.ndarray
    starts: np.ndarray
    gap_contexts: np.ndarray
    count_contexts: np.ndarray
    target_context: int
    target_cap: int
    gaps_left: int
    counts_left: int


def _tables(model: CoderModel) -> _Tables:
    return _Tables(
        model.ids_by_rank,
        model.symbols_by_slot,
        model.starts,
        model.gap_contexts,
        model.count_contexts,
        model.alphabet.target,
        Alphabet.TARGET_BUCKETS - 1,
        Alphabet.GAPS_LEFT,
        Alphabet.COUNTS_LEFT + 1,
    )


def damaged(block: int) -> LabelError:
    """The error of a block whose words do not decode."""
    return LabelError(
        f"the coded labels of block {block} of this read do not decode: the shard was altered, or the tables in the "
        "manifest are another store's; `kd store verify` says which"
    )
