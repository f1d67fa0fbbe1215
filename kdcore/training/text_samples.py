"""Sequences of tokens, from a label store or straight from the source."""

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.config.training import LongDocuments
from kdcore.data.chunks import Chunk, Masked, make_chunks, settle_long
from kdcore.data.document import TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.data.sources import open_source
from kdcore.errors import DataError, IdentityMismatch, LabelError
from kdcore.identity import digest_tokenizer
from kdcore.labels.soft_labels import SoftLabels
from kdcore.labels.spans import count_positions, positions_of
from kdcore.planning import plan_units
from kdcore.training.batches import TextBatch
from kdcore.training.packing import Layout, Places, arrange

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdcore.training.stored_labels import Labelled


class Rows(Protocol):
    """Tokenised documents by number."""

    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, int [R]."""
        ...

    def occurrences(self) -> np.ndarray:
        """How often each row occurs in the data, int [R]."""
        ...

    def masked(self) -> Masked | None:
        """How many labels each row has, and where; None where every next token is one."""
        ...

    def tokens_of(self, rows: np.ndarray) -> list[np.ndarray]:
        """Token ids of each row, int [T]."""
        ...

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, epochs: np.ndarray) -> SoftLabels:
        """Labels start..stop-1 of each row, one after the other, as the epochs int64 [n] see them."""
        ...

    @property
    def changes(self) -> bool:
        """Whether the labels of a row differ from epoch to epoch."""
        ...

    @property
    def elsewhere(self) -> bool:
        """Whether rows lie on another machine, from which `bring` copies them."""
        ...

    def bring(self, rows: np.ndarray) -> None:
        """Copies what these rows are read from, many files at once."""
        ...


class SourceRows:
    """Documents of the recipe's source, tokenised here; they have no soft labels."""

    elsewhere = False
    changes = False

    def __init__(self, recipe: Recipe, encoder: TextEncoder) -> None:
        self._encoder = encoder
        source = open_source(recipe.data)
        _, parts = plan_units(source, "train", recipe.labels.unit_bytes, recipe.data.on_unreadable)
        self._rows: list[EncodedText] = []
        self._times: list[int] = []
        self._is_masked = encoder.masked
        self.keys: list[bytes] = []
        for ref, key, times in (sample for part in parts for sample in part):
            document = source.read(ref)
            assert isinstance(document, TextDocument)
            found = self._encoded(document)
            # int32: a corpus stays in memory for the whole run.
            ends = None if found.byte_ends is None else found.byte_ends.astype(np.int32)
            self._rows.append(EncodedText(found.tokens.astype(np.int32), found.spans, ends))
            self.keys.append(key)
            self._times.append(times)

    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, int64 [R]."""
        return np.array([len(row.tokens) for row in self._rows], dtype=np.int64)

    def occurrences(self) -> np.ndarray:
        """How often each row occurs in the data, int64 [R]."""
        return np.array(self._times, dtype=np.int64)

    def masked(self) -> Masked | None:
        """How many labels each row has, and where; None where every next token is one."""
        if not self._is_masked:
            return None
        return Masked(np.array([count_positions(row.spans) for row in self._rows], np.int64), self._positions)

    def tokens_of(self, rows: np.ndarray) -> list[np.ndarray]:
        """Token ids of each row, int32 [T]."""
        return [self._rows[row].tokens for row in rows.tolist()]

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, epochs: np.ndarray) -> SoftLabels:
        """There are none: LabelError."""
        raise LabelError(f"rows {rows.tolist()[:5]} come from the source, which has no soft labels; open a label store")

    def bring(self, rows: np.ndarray) -> None:
        """They are in memory."""

    def _encoded(self, document: TextDocument) -> EncodedText:
        return self._encoder.encode(document)

    def _positions(self, row: int) -> np.ndarray:
        spans = self._rows[row].spans
        assert spans is not None
        return positions_of(spans)


class StoreRows:
    """Rows of a label store, or of a mix of several."""

    def __init__(self, store: "Labelled") -> None:
        self._store = store
        self.labels_of, self.changes = store.labels_of, store.changes
        self.tokens_of = store.tokens_of
        self.occurrences = store.occurrences
        self.bring = store.bring
        self.elsewhere = store.elsewhere

    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, int64 [R]."""
        return np.asarray(self._store.num_tokens_per_row(), dtype=np.int64)

    def masked(self) -> Masked | None:
        """How many labels each row has, and where; None where every next token is one."""
        return Masked(self._store.num_labels_per_row(), self._store.label_positions) if self._store.masked else None


class TextSamples:
    """Sequences of at most `sequence_length` tokens: documents, or pieces of longer ones where those are cut."""

    def __init__(self, rows: Rows, sequence_length: int, uses_labels: bool, long_documents: LongDocuments) -> None:
        self._rows, self._uses_labels, self._sequence_length = rows, uses_labels, sequence_length
        self._masked = rows.masked()
        times = rows.occurrences()
        if self._masked is not None:
            times = np.where(self._masked.num_labels > 0, times, 0)
        times, self.notes = settle_long(rows.num_tokens(), times, sequence_length, long_documents)
        self._chunks = make_chunks(rows.num_tokens(), times, sequence_length, self._masked)
        if len(self._chunks) == 0:
            raise DataError(
                "training needs at least one document with a token to learn (two tokens, and of a completion or an "
                "assistant's turn where data.mask says so); the train split has none: see `data` and "
                "training.long_documents"
            )
        self.lengths = self._chunks.stops - self._chunks.starts
        self.views: int | None = None if uses_labels and rows.changes else 1

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def elsewhere(self) -> bool:
        """Whether they are read from another machine."""
        return self._rows.elsewhere

    def bring(self, indices: np.ndarray) -> None:
        """Copies the shards that sequences are in to this machine, many at once."""
        self._rows.bring(self._chunks.rows[self._sequences(indices)])

    def tokens(self, indices: np.ndarray) -> int:
        """Labelled tokens (targets) of the sequences."""
        indices = self._sequences(indices)
        return int((self._chunks.lasts[indices] - self._chunks.firsts[indices]).sum())

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """Digests uint64 of the sequences' tokens."""
        read = self._read(self._sequences(indices))
        found = [hashlib.blake2b(tokens.astype("<i8").tobytes(), digest_size=8) for _, tokens in read]
        return np.array([int.from_bytes(each.digest(), "little") for each in found], dtype=np.uint64)

    def _sequences(self, indices: np.ndarray) -> np.ndarray:
        """Sequences by number, whatever their epochs."""
        return np.asarray(indices, dtype=np.int64) % len(self)

    def _read(self, indices: np.ndarray) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Each sequence, and its tokens with the one after the last, int [T + 1]."""
        rows = self._rows.tokens_of(self._chunks.rows[indices])
        for chunk, tokens in zip(self._chunks.of(indices), rows, strict=True):
            yield chunk, tokens[chunk.start : chunk.stop + 1]

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> TextBatch:
        """Sequences as a batch; without indices one padding token and no target.

        The next tokens of a sequence's tokens are its own, also that of its last one: none is a token of another
        sequence, and none is left out.
        """
        if len(indices) == 0:
            return self._nothing(layout)
        epochs, indices = np.divmod(np.asarray(indices, dtype=np.int64), len(self))
        places = arrange(self.lengths[indices], layout, self._sequence_length)
        epochs, indices = epochs[places.order], indices[places.order]
        begins = places.rows * places.shape[1] + places.columns
        inputs = np.zeros(places.num_slots, dtype=np.int64)
        positions, targets = [], []
        for (chunk, tokens), begin in zip(self._read(indices), begins.tolist(), strict=True):
            inputs[begin : begin + len(tokens) - 1] = tokens[:-1]
            labelled = self._labelled(chunk)
            positions.append(begin + labelled)
            targets.append(tokens[1:][labelled])
        return TextBatch(
            torch.from_numpy(inputs).view(places.shape),
            torch.from_numpy(np.concatenate(positions)),
            torch.from_numpy(np.concatenate(targets, dtype=np.int64)),
            self._labels_of(indices, epochs),
            None if layout == "padded" else torch.from_numpy(places.position_ids()),
            _borders(begins, places) if layout == "flat" else None,
            int(self.lengths[indices].max()),
        )

    def _nothing(self, layout: Layout) -> TextBatch:
        """What a rank without work still takes part in a step with."""
        first = np.zeros(1, dtype=np.int64)
        labels = self._labels_of(first, first)
        labels = None if labels is None else labels.index(slice(0, 0))
        one, none = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
        borders = torch.tensor([0, 1], dtype=torch.int32) if layout == "flat" else None
        return TextBatch(one, none, none, labels, None if layout == "padded" else one, borders, 1)

    def _labels_of(self, indices: np.ndarray, epochs: np.ndarray) -> SoftLabels | None:
        """The soft labels of sequences, one after the other, as the epochs see them."""
        if not self._uses_labels:
            return None
        chunks = self._chunks
        return self._rows.labels_of(chunks.rows[indices], chunks.firsts[indices], chunks.lasts[indices], epochs)

    def _labelled(self, chunk: Chunk) -> np.ndarray:
        """Which of a chunk's inputs have a label, counted from its start."""
        if self._masked is None:
            return np.arange(chunk.stop - chunk.start)
        return self._masked.positions(chunk.row)[chunk.first : chunk.last] - chunk.start


def _borders(begins: np.ndarray, places: Places) -> torch.Tensor:
    return torch.from_numpy(np.append(begins, places.num_slots).astype(np.int32))


def text_samples(
    recipe: Recipe,
    tokenizer: "PreTrainedTokenizerBase",
    uses_labels: bool,
    sequence_length: int,
    long_documents: LongDocuments = "refuse",
) -> TextSamples:
    """Sequences from the recipe's stores where there are some (with or without their labels), else from the source.

    Where students learn by the bytes of a text they come from the source too, as the student's tokenizer cuts them.
    Raises IdentityMismatch when another store was made with another tokenizer than the student's, and DataError for a
    document longer than `sequence_length`, unless `long_documents` says what to do with it.
    """
    if not recipe.has_labels:
        rows = SourceRows(recipe, TextEncoder(tokenizer, recipe.data))
        return TextSamples(rows, sequence_length, False, long_documents)
    from kdcore.store.reader import LabelStore
    from kdcore.training.cross_rows import OpeningRows, SpanRows, holds_spans
    from kdcore.training.stored_labels import open_labels

    store = open_labels(recipe)
    is_sorted = recipe.training is not None and recipe.training.loss.is_sorted
    if isinstance(store, LabelStore) and (is_sorted or holds_spans(store)):
        rows = (OpeningRows if is_sorted else SpanRows)(recipe, tokenizer, store)
        return TextSamples(rows, sequence_length, uses_labels, long_documents)
    check_same_tokenizer(store, tokenizer)
    samples = TextSamples(StoreRows(store), sequence_length, uses_labels, long_documents)
    samples.notes += store.notes
    return samples


def check_same_tokenizer(store: "Labelled", tokenizer: "PreTrainedTokenizerBase") -> None:
    """IdentityMismatch unless the labels were made with this tokenizer; a store that knows of none is not checked.

    Of codec `span` the tokens of the store are the teacher's own, so that they are of this tokenizer or refused too.
    """
    stored, ours = store.identity.get("tokenizer"), digest_tokenizer(tokenizer)
    if stored is not None and stored != ours:
        raise IdentityMismatch(
            f"student and teacher must share a tokenizer: the labels in {store.described} were made with one of digest "
            f"{stored}, the student's '{tokenizer.name_or_path}' has {ours}. Use the teacher's (student.tokenizer in a "
            "recipe), special tokens and chat template included; or label with labels.codec: {type: span}, from which "
            "students of any tokenizer learn (of topk labels with training.loss.type gold or uld)"
        )
