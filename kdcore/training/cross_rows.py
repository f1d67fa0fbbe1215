"""Documents as a student's tokenizer cuts them, with what a teacher of another one says of their bytes."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.config.models import CausalLMConfig, TeacherEndpointConfig
from kdcore.data.byte_ends import TokenBytes
from kdcore.data.document import TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import ConfigError, IdentityMismatch
from kdcore.identity import digest_tokenizer
from kdcore.labels import SpanCodec, SpanLabels, TopKCodec, TopKLabels
from kdcore.labels.alignment import Tokens
from kdcore.labels.chunk_labels import ChunkLabels, Pieces, chunk_labels, chunks_of
from kdcore.labels.opening_labels import OpeningLabels, opening_labels, openings_of
from kdcore.labels.spans import positions_of
from kdcore.losses.cross_tokenizer.sorted_distance import SharedClasses
from kdcore.training.text_samples import SourceRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdcore.store.reader import LabelStore

__all__ = ["OpeningRows", "SpanRows", "holds_spans"]


def holds_spans(store: "LabelStore") -> bool:
    """Whether a store's labels are for students of any tokenizer."""
    return isinstance(store.codec, SpanCodec)


class _CrossRows(SourceRows):
    """Documents of the recipe's source, joined with the labels of a store by their keys."""

    def __init__(self, recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", store: "LabelStore") -> None:
        """MissingLabels for a document that the store does not have, IdentityMismatch for another chat template."""
        encoder = TextEncoder(tokenizer, recipe.data, with_bytes=True)
        _check_reading(encoder, store, recipe)
        super().__init__(recipe, encoder)
        self._store = store
        self._places = store.rows_of(self.keys)
        self.elsewhere = store.place.remote

    def bring(self, rows: np.ndarray) -> None:
        """Copies the shards that their labels are in."""
        self._store.bring(self._places[rows])

    def _bytes(self, row: int, start: int, stop: int) -> Tokens:
        """Those that the student's labels start .. stop - 1 of a row are of."""
        text = self._rows[row]
        assert text.byte_ends is not None
        # Not `text.positions`, which would stay beside the text: twice its memory.
        places = np.arange(start, stop) if text.spans is None else positions_of(text.spans)[start:stop]
        return _bytes_at(text.byte_ends, places)


class SpanRows(_CrossRows):
    """Of a store of codec `span`."""

    def __init__(self, recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", store: "LabelStore") -> None:
        """See _CrossRows."""
        super().__init__(recipe, tokenizer, store)
        assert recipe.training is not None
        self._merge_below = recipe.training.loss.merge_below
        marks = TokenBytes(tokenizer)
        self._boundary_ids = np.flatnonzero(marks.boundaries(len(marks.sizes)))

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, epochs: np.ndarray) -> ChunkLabels:
        """The chunks of labels start .. stop - 1 of each row, one sequence after the other."""
        parts = zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)
        return chunk_labels([self._pieces(*part) for part in parts], self._boundary_ids)

    def _pieces(self, row: int, start: int, stop: int) -> Pieces:
        teacher = self._store.labels(int(self._places[row]))
        assert isinstance(teacher, SpanLabels)
        return chunks_of(teacher, *self._bytes(row, start, stop), self._merge_below)


class OpeningRows(_CrossRows):
    """Of a store of codec `topk`: which bytes its tokens are of is found with the teacher's tokenizer."""

    def __init__(self, recipe: Recipe, tokenizer: "PreTrainedTokenizerBase", store: "LabelStore") -> None:
        """As _CrossRows; ConfigError for another codec, IdentityMismatch where the store has other tokens."""
        if not isinstance(store.codec, TopKCodec):
            assert recipe.training is not None
            raise ConfigError(
                f"training.loss.type '{recipe.training.loss.type}' compares the most probable classes of two "
                f"vocabularies, and the labels in {store.path} are of codec '{store.codec.name}': label with "
                "labels.codec.type topk into a new path, or set another training.loss.type"
            )
        theirs = _teachers_tokenizer(recipe, store)
        self._their_encoder = TextEncoder(theirs, recipe.data, with_bytes=True)
        self._their_ends: list[np.ndarray] = []
        super().__init__(recipe, tokenizer, store)
        self._check_tokens()
        vocabularies = TokenBytes(theirs).names(), TokenBytes(tokenizer).names()
        self._student_of = SharedClasses.of(*vocabularies, store.num_classes).student_of

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, epochs: np.ndarray) -> OpeningLabels:
        """The chunks of labels start .. stop - 1 of each row, one sequence after the other."""
        places, sequences = self._places[rows], zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)
        ours = [self._bytes(*sequence) for sequence in sequences]
        theirs = [self._their_bytes(row, place) for row, place in zip(rows.tolist(), places.tolist(), strict=True)]
        near = np.array([_near(*sides) for sides in zip(theirs, ours, strict=True)], np.int64).reshape(-1, 2)
        parts = [
            openings_of(
                Tokens(side.begins[first:last], side.ends[first:last]),
                self._store.token_log_probs(place, first, last),
                own,
            )
            for side, own, place, (first, last) in zip(theirs, ours, places.tolist(), near.tolist(), strict=True)
        ]
        labels = self._store.labels_of(places, *near.T)
        assert isinstance(labels, TopKLabels)
        sizes = near[:, 1] - near[:, 0]
        asked = [part.asked + before for part, before in zip(parts, np.cumsum(sizes) - sizes, strict=True)]
        chosen = torch.from_numpy(np.concatenate([np.empty(0, np.int64), *asked]))
        return opening_labels(parts, labels.index(chosen), self._student_of)

    def _encoded(self, document: TextDocument) -> EncodedText:
        ends = self._their_encoder.encode(document).byte_ends
        assert ends is not None
        self._their_ends.append(ends.astype(np.int32))
        return super()._encoded(document)

    def _their_bytes(self, row: int, place: int) -> Tokens:
        return _bytes_at(self._their_ends[row], self._store.label_positions(place))

    def _check_tokens(self) -> None:
        found = np.array([len(ends) for ends in self._their_ends], np.int64)
        stored = self._store.num_tokens_per_row()[self._places]
        wrong = np.flatnonzero(found != stored)
        if len(wrong):
            raise IdentityMismatch(
                f"the store must have the tokens that the teacher's tokenizer makes of its texts, but of sample "
                f"{self.keys[int(wrong[0])].hex()} it has {stored[wrong[0]]}, not {found[wrong[0]]} ({len(wrong)} such "
                f"samples in {self._store.path}): data.mask, its fields or the tokenizers package changed; label again"
            )


def _bytes_at(ends: np.ndarray, positions: np.ndarray) -> Tokens:
    """Of the tokens after `positions`."""
    return Tokens(*(ends[places].astype(np.int64) for places in (positions, positions + 1)))


def _near(theirs: Tokens, ours: Tokens) -> tuple[int, int]:
    """Which of the teacher's tokens, first .. last - 1, are of bytes of the student's."""
    if not len(ours.ends):
        return 0, 0
    first = int(np.searchsorted(theirs.ends, ours.begins[0], "right"))
    return first, max(first, int(np.searchsorted(theirs.begins, ours.ends[-1])))


def _teachers_tokenizer(recipe: Recipe, store: "LabelStore") -> "PreTrainedTokenizerBase":
    """That of the recipe's teacher; IdentityMismatch where the labels are of another."""
    assert isinstance(recipe.teacher, CausalLMConfig | TeacherEndpointConfig)
    source = recipe.teacher.tokenizer_source
    assert source is not None
    tokenizer = load_tokenizer(*source)
    stored, found = store.identity.get("tokenizer"), digest_tokenizer(tokenizer)
    if stored is not None and stored != found:
        raise IdentityMismatch(
            f"the tokens of the labels are read with the teacher's tokenizer: those in {store.path} were made with "
            f"one of digest {stored}, that of `teacher` ('{source[0]}') has {found}. Set teacher.tokenizer to it, or "
            "label again into a new path"
        )
    return tokenizer


def _check_reading(encoder: TextEncoder, store: "LabelStore", recipe: Recipe) -> None:
    """Bytes are those of the text that the teacher read."""
    ours, theirs = encoder.identity().get("chat_template"), store.identity.get("chat_template")
    given = recipe.data.chat_template if isinstance(recipe.data, RowData) else None
    if ours != theirs:
        raise IdentityMismatch(
            f"teacher and student must read conversations in one text, but the labels in {store.path} are of the chat "
            f"template with digest {theirs}, and the student's ({given or 'of its tokenizer'}) has {ours}: set "
            "data.chat_template to one file for both, and label again into a new path"
        )
    written = encoder.special_tokens()
    if not written:
        return
    read = TextEncoder(_teachers_tokenizer(recipe, store), recipe.data).special_tokens()
    if written != read:
        raise IdentityMismatch(
            f"teacher and student must read conversations in one text, but their chat template "
            f"({given or 'of their tokenizers'}) writes {read} with the teacher's tokenizer and {written} with the "
            "student's: give these in data.template_arguments, or spell them out in a file (data.chat_template), and "
            "label again into a new path"
        )
