"""Conversations through a chat template: the text that a model reads, and where in it the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.config.data import RowData
from kdcore.data.document import Conversation, TextDocument
from kdcore.errors import ConfigError, UnreadableDocument
from kdcore.identity import digest_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatTemplate", "Spans", "read_template"]

Spans = list[tuple[int, int]]
"""Characters start .. stop - 1 each, rising and apart."""

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
# In place of transformers' clock. A template gets values like those of JSON and no functions; nothing else there is a
# tuple, so a call of one is a call of this.
_NO_CLOCK, _CLOCK_ASKED = {"strftime_now": ()}, "'tuple' object is not callable"
_TWO_TURNS = Conversation([{"role": role, "content": role} for role in ("user", "assistant") * 2])


class ChatTemplate:
    """The template of a tokenizer, or the one of `data.chat_template`. Raises ConfigError when there is none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: RowData) -> None:
        self._tokenizer: Any = tokenizer
        self._arguments = config.template_arguments
        self.source = config.chat_template or f"the chat template of tokenizer '{tokenizer.name_or_path}'"
        template = tokenizer.chat_template if config.chat_template is None else read_template(config.chat_template)
        if not template:
            raise ConfigError(
                f"messages are rendered by a chat template, but tokenizer '{tokenizer.name_or_path}' has none: set "
                "data.chat_template to a Jinja file"
            )
        self._own: Any = None if config.chat_template is None else template
        self._template: Any = template
        self._ends = tuple(token.content for token in tokenizer.added_tokens_decoder.values())

    def digest(self) -> str:
        """Digest of the template and its arguments."""
        return digest_json({"template": self._template, "arguments": self._arguments})

    def special_tokens(self) -> dict[str, str | None]:
        """What the template writes by the name of a special token, such as `eos_token`: with each tokenizer its own."""
        text, own = str(self._template), self._tokenizer.special_tokens_map
        names = [name for name in self._tokenizer.SPECIAL_TOKENS_ATTRIBUTES if name not in self._arguments]
        return {name: own.get(name) for name in names if re.search(rf"\b{name}\b", text)}

    def render(self, document: TextDocument, with_spans: bool) -> tuple[str, Spans]:
        """The whole text, and `with_spans` what the assistant says in it, each turn with the token that ends it.

        A template with {% generation %} marks says itself where that is. Raises UnreadableDocument for a conversation
        that the template refuses, or of which it rewrites earlier turns; ConfigError for a template that rewrites those
        of any conversation, or asks for today's date.
        """
        conversation = document.conversation
        assert conversation is not None
        try:
            if with_spans and _MARKER.search(self._text(conversation)):
                return self._marked(conversation)
            text = self._render(conversation, conversation.messages)
        except _failures() as error:
            self._check_clock(error)
            raise UnreadableDocument(
                f"'{document.name}' cannot be rendered by {self.source}: {type(error).__name__}: {error}. Repair or "
                "remove it, set data.on_unreadable: skip, or data.chat_template to another template."
            ) from error
        return text, self._turns(document.name, conversation, text) if with_spans else []

    def _text(self, conversation: Conversation) -> str:
        return self._tokenizer.get_chat_template(self._own, list(conversation.tools) or None)

    def _variables(self, conversation: Conversation) -> dict[str, Any]:
        return {**_NO_CLOCK, **self._arguments, **conversation.arguments}

    def _check_clock(self, error: Exception) -> None:
        if _CLOCK_ASKED in str(error):
            raise ConfigError(
                f"{self.source} asks for today's date, so the same conversation would be other tokens tomorrow: set "
                "data.template_arguments to a fixed one (such as {date_string: 26 Jul 2024}, where it knows that)"
            ) from error

    def _render(self, conversation: Conversation, messages: Sequence[Any], prompt: bool = False) -> str:
        text = self._tokenizer.apply_chat_template(
            list(messages),
            tools=list(conversation.tools) or None,
            chat_template=self._own,
            add_generation_prompt=prompt,
            tokenize=False,
            **self._variables(conversation),
        )
        assert isinstance(text, str)
        return text

    def _marked(self, conversation: Conversation) -> tuple[str, Spans]:
        from transformers.utils.chat_template_utils import render_jinja_template

        render: Any = render_jinja_template  # its annotations do not say that it returns two lists
        texts, spans = render(
            [list(conversation.messages)],
            tools=list(conversation.tools) or None,
            chat_template=self._text(conversation),
            return_assistant_tokens_mask=True,
            **{**self._tokenizer.special_tokens_map, **self._variables(conversation)},
        )
        return texts[0], [span for span in spans[0] if span[0] < span[1]]

    def _turns(self, name: str, conversation: Conversation, whole: str) -> Spans:
        """From prefixes: what comes after the prompt for a turn, up to where the conversation with it ends."""
        spans: Spans = []
        for number, message in enumerate(conversation.messages):
            if message["role"] != "assistant":
                continue
            if number == 0:
                raise UnreadableDocument(
                    f"'{name}' begins with the assistant, where a template has no prompt to answer: put a message "
                    "before it, set data.on_unreadable: skip, or data.mask: all"
                )
            start = self._prefix(conversation, number, True, whole)
            stop = self._prefix(conversation, number + 1, False, whole)
            if start is None or stop is None or stop < start:
                raise self._unstable(name, number + 1)
            stop = start + self._without_line_end(whole[start:stop])
            if start < stop:
                spans.append((start, stop))
        return spans

    def _prefix(self, conversation: Conversation, messages: int, prompt: bool, whole: str) -> int | None:
        """How long the rendering of the first messages is; None where the whole one does not begin with it."""
        try:
            text = self._render(conversation, conversation.messages[:messages], prompt)
        except _failures() as error:
            self._check_clock(error)
            return None
        return len(text) if whole.startswith(text) else None

    def _without_line_end(self, turn: str) -> int:
        """White space after the token that ends a turn is no part of it: nobody who stops there says it."""
        bare = turn.rstrip()
        return len(bare) if bare.endswith(self._ends) else len(turn)

    def _unstable(self, name: str, messages: int) -> ConfigError | UnreadableDocument:
        """The template's fault where it does so to a plain conversation of two turns too, else the document's."""
        what = (
            f"{self.source} does not render the first {messages} messages of '{name}' as it begins to render all of "
            "them (it rewrites earlier turns, or ends them otherwise), so what the assistant says is not known: "
            "set data.chat_template to a template that marks it with {% generation %} ... {% endgeneration %}, cut "
            "conversations after their first answer, or set data.mask: all"
        )
        try:
            whole = self._render(_TWO_TURNS, _TWO_TURNS.messages)
        except _failures():  # it wants other conversations
            return UnreadableDocument(f"{what}, or data.on_unreadable: skip")
        if self._prefix(_TWO_TURNS, 3, True, whole) is None or self._prefix(_TWO_TURNS, 2, False, whole) is None:
            return ConfigError(what)
        return UnreadableDocument(f"{what}, or data.on_unreadable: skip")


def _failures() -> tuple[type[Exception], ...]:
    """What a template raises, of itself or because messages are not what it expects."""
    from jinja2 import TemplateError

    return TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError


def read_template(path: str) -> str:
    """The text of a Jinja file; ConfigError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"data.chat_template must be a Jinja file in UTF-8; '{path}' cannot be read: {error}"
        ) from error
