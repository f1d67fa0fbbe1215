"""Documents as a model reads them: token ids, and which of the next tokens are labelled and trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kdcore.config.data import DataConfig, RowData
from kdcore.data.byte_ends import TokenBytes, byte_ends, bytes_before, exact_backend
from kdcore.data.chat import ChatTemplate, Spans
from kdcore.data.document import TextDocument
from kdcore.data.tokenizer import encode_document
from kdcore.data.windows import Window, windows
from kdcore.errors import UnreadableDocument
from kdcore.labels.spans import positions_of, spans_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["EncodedText", "LabelledWindow", "TextEncoder"]


class LabelledWindow(NamedTuple):
    """A window with labels to give: labels `labels` of its text (of N) are the answers in the window's rows `rows`."""

    window: Window
    labels: slice
    rows: slice | np.ndarray


@dataclass(frozen=True)
class EncodedText:
    """`tokens` int64 [T], and the runs of labelled positions int32 [S, 2] (see kdcore.labels.spans); None: all T - 1.

    Position j is labelled when tokens[j + 1] is to be learnt: label j is the distribution after tokens[: j + 1].
    `byte_ends` int64 [T], where they were asked for, are the bytes of the text after which its tokens end; the EOS that
    closes a plain text is a byte of its own there, after the last one.
    """

    tokens: np.ndarray
    spans: np.ndarray | None = None
    byte_ends: np.ndarray | None = None

    @cached_property
    def positions(self) -> np.ndarray:
        """The labelled positions, int64 [N], rising."""
        return np.arange(max(0, len(self.tokens) - 1)) if self.spans is None else positions_of(self.spans)

    @cached_property
    def targets(self) -> np.ndarray:
        """The next token of each label, int64 [N]."""
        return self.tokens[1:][self.positions]

    def windows(self, context: int, overlap: int) -> Iterator[LabelledWindow]:
        """The windows of the whole text that have labels; the others are not worth a forward pass."""
        for window in windows(len(self.tokens), context, overlap):
            start, stop = np.searchsorted(self.positions, (window.first_label, window.last_label)).tolist()
            if start < stop:
                rows = self.positions[start:stop] - window.start
                first, last = int(rows[0]), int(rows[-1]) + 1
                whole = last - first == len(rows)  # a view of the logits, not a copy
                yield LabelledWindow(window, slice(start, stop), slice(first, last) if whole else rows)

    def num_read(self, context: int, overlap: int) -> int:
        """How many tokens the windows read, those in two of them once."""
        found = end = 0
        for window, _, _ in self.windows(context, overlap):
            found += window.stop - max(window.start, end)
            end = window.stop
        return found

    @property
    def num_bytes(self) -> int:
        """The bytes of the labelled next tokens, together; `byte_ends` must be there."""
        assert self.byte_ends is not None
        return int((self.byte_ends[self.positions + 1] - self.byte_ends[self.positions]).sum())

    def until(self, byte: int) -> EncodedText:
        """The document up to its last label that ends after so many bytes of it."""
        assert self.byte_ends is not None
        return self.beginning(int(np.searchsorted(self.byte_ends[self.positions + 1], byte, "right")))

    def beginning(self, num_labels: int) -> EncodedText:
        """The document up to its first `num_labels` labels."""
        positions = self.positions[:num_labels]
        tokens = self.tokens[: positions[-1] + 2] if len(positions) else self.tokens[:1]
        ends = None if self.byte_ends is None else self.byte_ends[: len(tokens)]
        return EncodedText(tokens, None if self.spans is None else spans_of(positions), ends)


class TextEncoder:
    """Encodes the documents of a `data` section with one tokenizer; `with_bytes` it says where tokens end, too.

    Raises ConfigError for conversations without a chat template, TokenizerMismatch for a tokenizer that cannot say
    which characters its tokens come from, where that must be known.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DataConfig, with_bytes: bool = False) -> None:
        rows = config if isinstance(config, RowData) else None
        self._tokenizer = tokenizer
        self._skips = config.on_unreadable == "skip"
        self._mask = "all" if rows is None else rows.labelled
        self._chat = ChatTemplate(tokenizer, rows) if rows is not None and rows.messages_field is not None else None
        self._bytes = TokenBytes(tokenizer) if with_bytes else None
        looks = self.masked or self._chat is not None or with_bytes
        self._backend = exact_backend(tokenizer) if looks else None

    @property
    def masked(self) -> bool:
        """Whether only some tokens are labelled."""
        return self._mask != "all"

    def identity(self) -> dict[str, str]:
        """What of this decides tokens and labels beside the tokenizer; empty where every token of a text counts."""
        mask = {"mask": self._mask} if self.masked else {}
        return mask if self._chat is None else {**mask, "chat_template": self._chat.digest()}

    def special_tokens(self) -> dict[str, str | None]:
        """Texts of special tokens that conversations are written with, by name; see ChatTemplate."""
        return {} if self._chat is None else self._chat.special_tokens()

    def encode(self, document: TextDocument) -> EncodedText:
        """Tokens and labelled positions. A token belongs where its first character does; so does one on a border.

        Plain text and prompts get the tokenizer's BOS and EOS; the EOS belongs to a completion that is not empty. A
        conversation is what its template makes of it, special tokens and all. Raises as ChatTemplate.render does, but
        with data.on_unreadable: skip a conversation that its template refuses is a text without tokens.
        """
        if document.conversation is not None:
            return self._conversation(document)
        if not (self.masked or self._bytes):
            return EncodedText(encode_document(self._tokenizer, document.text))
        prompt, end = document.prompt or 0, len(document.text)
        ids, offsets = self._offsets(document.text, specials_are_text=True)
        bos, eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        first, last = [] if bos is None else [bos], [] if eos is None else [eos]
        tokens = np.concatenate([first, ids, last]).astype(np.int64)
        # They have no character; the EOS belongs after the last one.
        nothing = np.zeros((1, 2), np.int64)
        places = np.concatenate([nothing[: len(first)] - 1, offsets, nothing[: len(last)] + end])
        labelled = self._labelled(places[:, 0], [(prompt, end + 1)] if prompt < end else [])
        ends = self._ends(document.text, tokens, np.maximum(places, 0))
        if ends is not None and last:
            ends[-1] += 1
        return EncodedText(tokens, labelled, ends)

    def _conversation(self, document: TextDocument) -> EncodedText:
        assert self._chat is not None
        try:
            text, spans = self._chat.render(document, self.masked)
        except UnreadableDocument:
            if not self._skips:
                raise
            text, spans = "", []
        ids, offsets = self._offsets(text, specials_are_text=False)
        return EncodedText(ids, self._labelled(offsets[:, 0], spans), self._ends(text, ids, offsets))

    def _ends(self, text: str, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
        if self._bytes is None:
            return None
        return byte_ends(bytes_before(text), offsets, self._bytes.sizes[tokens])

    def _labelled(self, begins: np.ndarray, spans: Spans) -> np.ndarray | None:
        """Runs of the positions whose next token begins, at begins [T], in one of the spans."""
        if not self.masked:
            return None
        starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
        place = np.searchsorted(starts, begins, "right") - 1
        inside = (place >= 0) & (begins < np.append(stops, -1)[place])
        return spans_of(np.flatnonzero(inside[1:]))

    def _offsets(self, text: str, specials_are_text: bool) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int64 [T], and the characters begin .. end - 1 of each, int64 [T, 2]."""
        assert self._backend is not None
        self._backend.encode_special_tokens = specials_are_text
        found = self._backend.encode(text, add_special_tokens=False)
        return np.array(found.ids, np.int64), np.array(found.offsets, np.int64).reshape(-1, 2)
