"""What the coder knows beforehand: the order of the classes and the frequency of every symbol, learnt on a probe."""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kdcore.errors import StoreError
from kdcore.identity import digest_bytes
from kdcore.labels.coder.buckets import bucket
from kdcore.labels.coder.layout import BLOCK_LABELS, COARSE_BITS, PLAIN, SCALE_BITS
from kdcore.labels.coder.symbols import Alphabet, Symbols, label_symbols

__all__ = ["MAX_DRAWS", "CoderModel"]

MAX_DRAWS = 65_535  # counts are kept as uint16 until they are coded
_SCALE = 1 << SCALE_BITS
# How many samples' worth the coarser tables weigh in a finer one: rare contexts lean on them.
_PARENT_WEIGHT = 24.0


@dataclass(frozen=True)
class CoderModel:
    """`ids_by_rank` int32 [V], likeliest class first; `frequencies` uint16 [contexts, symbols], rows sum to 2^12."""

    draws: int
    ids_by_rank: np.ndarray
    frequencies: np.ndarray
    bytes_per_label: float = float("nan")
    """What a label of the probe takes with these tables."""

    def __eq__(self, other: object) -> bool:
        """Of the same content."""
        return isinstance(other, CoderModel) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @classmethod
    def learn(
        cls,
        prior: np.ndarray,
        draws: int,
        ids: np.ndarray,
        counts: np.ndarray,
        entries: np.ndarray,
        targets: np.ndarray | None,
    ) -> "CoderModel":
        """From a probe: `prior` float [V] (mean probability of each class) and the labels of some rows."""
        order = np.argsort(-prior, kind="stable").astype(np.int32)
        alphabet = Alphabet.of(draws, len(prior))
        seen = cls(draws, order, _uniform(alphabet)).symbols(ids, counts, entries, targets)
        learnt = cls(draws, order, _frequencies(seen, alphabet))
        return replace(learnt, bytes_per_label=learnt.cost(seen))

    def cost(self, symbols: Symbols) -> float:
        """Bytes a label that these symbols take, the share of a block's own four words included."""
        frequencies, _ = self.pieces(symbols)
        bits = float((SCALE_BITS - np.log2(frequencies)).sum())
        return bits / 8 / max(1, len(symbols.per_label)) + 8 / BLOCK_LABELS

    @property
    def num_classes(self) -> int:
        """V."""
        return len(self.ids_by_rank)

    @cached_property
    def alphabet(self) -> Alphabet:
        """The contexts."""
        return Alphabet.of(self.draws, self.num_classes)

    @cached_property
    def ranks(self) -> np.ndarray:
        """The rank of each class, int64 [V]."""
        ranks = np.empty(self.num_classes, np.int64)
        ranks[self.ids_by_rank] = np.arange(self.num_classes)
        return ranks

    @cached_property
    def starts(self) -> np.ndarray:
        """Where each symbol's piece of 0 .. 2^12 - 1 begins, uint16 [contexts, symbols + 1]; the last entry is 2^12."""
        starts = np.zeros((len(self.frequencies), self.frequencies.shape[1] + 1), np.uint16)
        np.cumsum(self.frequencies, axis=1, out=starts[:, 1:])
        return starts

    @cached_property
    def symbols_by_slot(self) -> np.ndarray:
        """The symbol of every 16th slot, uint8 [contexts, 2^8]: where to begin looking for a slot's symbol."""
        # One search for all contexts: each gets a stretch of numbers of its own.
        first = np.arange(len(self.starts))[:, None] * 2 * _SCALE
        slots = first + np.arange(0, _SCALE, 1 << COARSE_BITS)
        found = np.searchsorted((self.starts + first).ravel(), slots.ravel(), side="right").reshape(slots.shape)
        return (found - 1 - np.arange(len(first))[:, None] * self.starts.shape[1]).astype(np.uint8)

    @cached_property
    def gap_contexts(self) -> np.ndarray:
        """The context of a gap that begins at each rank, with no class left, uint16 [V + 1]."""
        size = np.minimum(bucket(np.arange(self.num_classes + 1))[0], Alphabet.PREVIOUS_BUCKETS - 1)
        return (self.alphabet.gap - 1 + size * Alphabet.GAPS_LEFT).astype(np.uint16)

    @cached_property
    def count_contexts(self) -> np.ndarray:
        """The context of a count at each excess, with no class left, uint16 [draws + 1]."""
        size = np.minimum(bucket(np.arange(self.draws + 1))[0], Alphabet.EXCESS_BUCKETS - 1)
        return (self.alphabet.count - 2 + size * Alphabet.COUNTS_LEFT).astype(np.uint16)

    def symbols(self, ids: np.ndarray, counts: np.ndarray, entries: np.ndarray, targets: np.ndarray | None) -> Symbols:
        """The symbols of N labels (ids and counts [E], entries [N]); `targets` [N] are their hard labels."""
        is_target = np.zeros(len(ids), bool) if targets is None else ids == np.repeat(targets, entries)
        return label_symbols(self.ranks[ids], counts, entries, is_target, self.draws, self.alphabet)

    def pieces(self, symbols: Symbols) -> tuple[np.ndarray, np.ndarray]:
        """Frequency and start, int64 [S] each, of every symbol out of 2^12."""
        plain = symbols.contexts == PLAIN
        context, symbol = np.where(plain, 0, symbols.contexts), np.where(plain, 0, symbols.symbols)
        shift = SCALE_BITS - symbols.widths
        frequencies = np.where(plain, 1 << shift, self.frequencies[context, symbol].astype(np.int64))
        starts = np.where(plain, symbols.symbols.astype(np.int64) << shift, self.starts[context, symbol])
        return frequencies, starts

    def to_bytes(self) -> bytes:
        """The learnt part, compressed."""
        return zlib.compress(save(self._tensors()), 9)

    def _tensors(self) -> dict[str, np.ndarray]:
        return {
            "draws": np.array([self.draws], np.int64),
            "frequencies": np.ascontiguousarray(self.frequencies),
            "ids_by_rank": np.ascontiguousarray(self.ids_by_rank),
            "bytes_per_label": np.array([self.bytes_per_label], np.float64),
        }

    @classmethod
    def from_bytes(cls, state: bytes) -> "CoderModel":
        """What `to_bytes` wrote; StoreError when it is not that."""
        try:
            tensors = load(zlib.decompress(state))
            draws, size = int(tensors["draws"].item()), float(tensors["bytes_per_label"].item())
            model = cls(draws, tensors["ids_by_rank"], tensors["frequencies"], size)
        except (zlib.error, SafetensorError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise StoreError(f"the coder's tables in the manifest cannot be read ({error}): restore it") from error
        model._check()
        return model

    @cached_property
    def digest(self) -> str:
        """Digest of the tables, which stands in the codec's spec; not of `to_bytes`: libraries compress differently."""
        return digest_bytes(b"".join(tensor.tobytes() for tensor in self._tensors().values()))

    def _check(self) -> None:
        order, table = self.ids_by_rank, self.frequencies
        whole = order.ndim == 1 and order.dtype == np.int32 and 1 <= self.draws <= MAX_DRAWS
        whole = whole and len(order) > 0 and np.array_equal(np.sort(order), np.arange(len(order)))
        if not whole or table.shape != _shape(self.alphabet) or table.dtype != np.uint16:
            raise StoreError("the coder's tables in the manifest do not fit together: it was altered; restore it")
        if (table.sum(1, dtype=np.int64) != _SCALE).any() or ((table > 0) != _possible(self.alphabet)).any():
            raise StoreError("the coder's frequencies in the manifest do not sum to 4096: it was altered; restore it")


def _uniform(alphabet: Alphabet) -> np.ndarray:
    return _quantised(np.zeros(_shape(alphabet)), alphabet)


def _possible(alphabet: Alphabet) -> np.ndarray:
    """Which symbols can occur in each context, bool [contexts, symbols]."""
    return np.arange(_shape(alphabet)[1]) < alphabet.symbols_of()[:, None]


def _shape(alphabet: Alphabet) -> tuple[int, int]:
    return alphabet.num_contexts, max(alphabet.header_symbols, alphabet.gap_symbols, alphabet.count_symbols)


def _frequencies(seen: Symbols, alphabet: Alphabet) -> np.ndarray:
    """Counted symbols, each context smoothed by the contexts that differ only in the number of classes left."""
    kept = seen.contexts != PLAIN
    shape = _shape(alphabet)
    flat = seen.contexts[kept].astype(np.int64) * shape[1] + seen.symbols[kept]
    counted = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    for first, stop, width in (
        (alphabet.target, alphabet.gap, alphabet.gap - alphabet.target),
        (alphabet.gap, alphabet.count, Alphabet.GAPS_LEFT),
        (alphabet.count, alphabet.num_contexts, Alphabet.COUNTS_LEFT),
    ):
        groups = counted[first:stop].reshape(-1, width, shape[1])
        everywhere = groups.sum((0, 1)) / max(1.0, groups.sum())
        parent = groups.sum(1, keepdims=True) + 8.0 * everywhere
        parent /= np.maximum(parent.sum(2, keepdims=True), 1e-300)
        counted[first:stop] = (groups + _PARENT_WEIGHT * parent).reshape(-1, shape[1])
    return _quantised(counted, alphabet)


def _quantised(weights: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Weights [contexts, symbols] as frequencies that sum to 2^12, at least one for every symbol that can occur."""
    sizes = alphabet.symbols_of()
    possible = _possible(alphabet)
    weights = np.where(possible, weights, 0.0)
    total = weights.sum(1, keepdims=True)
    share = np.where(total > 0, weights / np.where(total > 0, total, 1.0), possible / sizes[:, None])
    whole = np.where(possible, 1 + np.floor(share * (_SCALE - sizes[:, None])), 0).astype(np.int64)
    # What rounding down left over goes to the most frequent symbol.
    whole[np.arange(len(whole)), share.argmax(1)] += _SCALE - whole.sum(1)
    return whole.astype(np.uint16)
