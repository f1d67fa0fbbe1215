"""Documents as a student's tokenizer cuts them, with what a teacher of another one says of their bytes."""

from typing import TYPE_CHECKING

import numpy as np

from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.data.byte_ends import TokenBytes
from kdcore.data.encoding import TextEncoder
from kdcore.errors import IdentityMismatch
from kdcore.labels.chunk_labels import ChunkLabels, Pieces, chunk_labels, chunks_of
from kdcore.labels.span import SpanCodec
from kdcore.labels.span_labels import SpanLabels
from kdcore.training.text_samples import SourceRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdcore.store.reader import LabelStore

__all__ = ["SpanRows", "holds_spans"]


def holds_spans(store: "LabelStore") -> bool:
    """Whether a store's labels are for students of any tokenizer."""
    return isinstance(store.codec, SpanCodec)


class SpanRows(SourceRows):
    """Documents of the recipe's source, joined with the labels of a store of codec `span` by their keys."""

    def __init__(self, recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", store: "LabelStore") -> None:
        """MissingLabels for a document that the store does not have, IdentityMismatch for another chat template."""
        encoder = TextEncoder(tokenizer, recipe.data, with_bytes=True)
        _check_reading(encoder, store, recipe)
        super().__init__(recipe, encoder)
        self._store = store
        self._places = store.rows_of(self.keys)
        assert recipe.training is not None
        self._merge_below = recipe.training.loss.merge_below
        marks = TokenBytes(tokenizer)
        self._boundary_ids = np.flatnonzero(marks.boundaries(len(marks.sizes)))
        self.elsewhere = store.place.remote

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, epochs: np.ndarray) -> ChunkLabels:
        """The chunks of labels start .. stop - 1 of each row, one sequence after the other."""
        parts = zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)
        return chunk_labels([self._pieces(*part) for part in parts], self._boundary_ids)

    def bring(self, rows: np.ndarray) -> None:
        """Copies the shards that their labels are in."""
        self._store.bring(self._places[rows])

    def _pieces(self, row: int, start: int, stop: int) -> Pieces:
        text = self._rows[row]
        assert text.byte_ends is not None
        positions = text.positions[start:stop]
        begins, ends = (text.byte_ends[places].astype(np.int64) for places in (positions, positions + 1))
        teacher = self._store.labels(int(self._places[row]))
        assert isinstance(teacher, SpanLabels)
        return chunks_of(teacher, begins, ends, self._merge_below)


def _check_reading(encoder: TextEncoder, store: "LabelStore", recipe: Recipe) -> None:
    """Bytes are those of the text that the teacher read."""
    ours, theirs = encoder.identity().get("chat_template"), store.identity.get("chat_template")
    if ours == theirs:
        return
    given = recipe.data.chat_template if isinstance(recipe.data, RowData) else None
    raise IdentityMismatch(
        f"teacher and student must read conversations in one text, but the labels in {store.path} are of the chat "
        f"template with digest {theirs}, and the student's ({given or 'of its tokenizer'}) has {ours}: set "
        "data.chat_template to one file for both, and label again into a new path"
    )
