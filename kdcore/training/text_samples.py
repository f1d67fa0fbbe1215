"""Sequences of tokens, from a label store or straight from the source."""

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.data.chunks import make_chunks
from kdcore.data.document import TextDocument
from kdcore.data.sources import open_source
from kdcore.data.tokenizer import encode_document
from kdcore.errors import DataError, LabelError, TokenizerMismatch
from kdcore.identity import digest_tokenizer
from kdcore.labels.soft_labels import SoftLabels
from kdcore.planning import plan_units
from kdcore.training.batches import TextBatch

if TYPE_CHECKING:
    from kdcore.store.reader import LabelStore


class Rows(Protocol):
    """Tokenised documents by number."""

    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, int [R]."""
        ...

    def occurrences(self) -> np.ndarray:
        """How often each row occurs in the data, int [R]."""
        ...

    def tokens(self, row: int) -> np.ndarray:
        """Token ids of a row, int [T]."""
        ...

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> SoftLabels:
        """Labels start..stop-1 of each row, one after the other."""
        ...


class SourceRows:
    """Documents of the recipe's source, tokenised here; they have no soft labels."""

    def __init__(self, recipe: Recipe, tokenizer: object) -> None:
        source = open_source(recipe.data)
        _, parts = plan_units(source, "train", recipe.labels.unit_bytes, recipe.data.on_unreadable)
        self._rows: list[np.ndarray] = []
        self._times: list[int] = []
        for ref, _, times in (sample for part in parts for sample in part):
            document = source.read(ref)
            assert isinstance(document, TextDocument)
            # int32: a corpus stays in memory for the whole run.
            self._rows.append(encode_document(tokenizer, document.text).astype(np.int32))  # pyright: ignore
            self._times.append(times)

    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, int64 [R]."""
        return np.array([len(row) for row in self._rows], dtype=np.int64)

    def occurrences(self) -> np.ndarray:
        """How often each row occurs in the data, int64 [R]."""
        return np.array(self._times, dtype=np.int64)

    def tokens(self, row: int) -> np.ndarray:
        """Token ids of a row, int32 [T]."""
        return self._rows[row]

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> SoftLabels:
        """There are none: LabelError."""
        raise LabelError(f"rows {rows.tolist()[:5]} come from the source, which has no soft labels; open a label store")


class StoreRows:
    """Rows of a label store."""

    def __init__(self, store: "LabelStore") -> None:
        self._store = store
        self.labels_of = store.labels_of
        self.tokens = store.tokens
        self.occurrences = store.occurrences

    def num_tokens(self) -> np.ndarray:
        """Tokens of each row, int64 [R]."""
        return np.asarray(self._store.num_tokens_per_row(), dtype=np.int64)


class TextSamples:
    """Sequences of at most `sequence_length` tokens, cut from rows; ragged where a row ends."""

    def __init__(self, rows: Rows, sequence_length: int, uses_labels: bool) -> None:
        self._rows, self._uses_labels = rows, uses_labels
        self._chunks = make_chunks(rows.num_tokens(), rows.occurrences(), sequence_length)
        if len(self._chunks) == 0:
            raise DataError("training needs at least one document of two tokens; the train split has none: see `data`")

    def __len__(self) -> int:
        return len(self._chunks)

    def tokens(self, indices: np.ndarray) -> int:
        """Valid tokens (targets) of the sequences."""
        return int((self._chunks.stops[indices] - self._chunks.starts[indices]).sum())

    def batch(self, indices: np.ndarray) -> TextBatch:
        """Sequences as a padded batch; without indices one padding token and no target."""
        if len(indices) == 0:
            indices, kept = np.zeros(1, dtype=np.int64), 0
        else:
            kept = len(indices)
        rows, starts, stops = (part[indices] for part in (self._chunks.rows, self._chunks.starts, self._chunks.stops))
        lengths = stops - starts
        width = int(lengths.max())
        inputs = np.zeros((len(indices), width), dtype=np.int64)
        targets = []
        for place, (row, start, stop) in enumerate(zip(rows, starts, stops, strict=True)):
            tokens = self._rows.tokens(int(row))[start : stop + 1]
            inputs[place, : stop - start] = tokens[:-1]
            targets.append(np.asarray(tokens[1:], dtype=np.int64))
        valid = np.arange(width) < lengths[:, None]
        labels = self._rows.labels_of(rows, starts, stops) if self._uses_labels else None
        if not kept:  # a rank without work still takes part in the step, with one sequence that counts for nothing
            none = torch.zeros(0, dtype=torch.int64)
            return TextBatch(
                torch.from_numpy(inputs), none, none, None if labels is None else labels.index(slice(0, 0))
            )
        positions = torch.from_numpy(np.flatnonzero(valid))
        return TextBatch(torch.from_numpy(inputs), positions, torch.from_numpy(np.concatenate(targets)), labels)


def text_samples(recipe: Recipe, tokenizer: object, uses_labels: bool, sequence_length: int) -> TextSamples:
    """Sequences from the recipe's store where it has a teacher (with or without its labels), else from the source.

    Raises TokenizerMismatch when the store was made with another tokenizer than the student's.
    """
    if recipe.teacher is None:
        return TextSamples(SourceRows(recipe, tokenizer), sequence_length, uses_labels=False)
    from kdcore.store.reader import open_store

    store = open_store(recipe.store_path)
    stored, ours = store.identity.get("tokenizer"), digest_tokenizer(tokenizer)
    if stored is not None and stored != ours:
        raise TokenizerMismatch(
            f"student and teacher must share a tokenizer: the labels in {recipe.store_path} were made with "
            f"{stored}, the student has {ours}; set student.tokenizer to the teacher's"
        )
    return TextSamples(StoreRows(store), sequence_length, uses_labels)
