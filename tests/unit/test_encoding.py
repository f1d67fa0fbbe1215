"""Which tokens of a prompt with its completion, and of a conversation, are labelled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.data import PythonStdlibData, TextData
from kdcore.data.document import TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.data.rows import document_of_row
from kdcore.data.tokenizer import encode_document
from kdcore.errors import ConfigError, TokenizerMismatch, UnreadableDocument
from kdcore.labels.spans import positions_of, spans_of
from tests.support.chat_tokenizer import BEGUN, CHATML, FORGETFUL, MARKED, chat_tokenizer

PROMPT = {"prompt_field": "p", "completion_field": "c"}
CHAT = {"messages_field": "messages"}
TURNS = (("system", "Be brief."), ("user", "a?"), ("assistant", "Yes é."), ("user", "b?"), ("assistant", "No."))


def encoded(tokenizer, row, **settings) -> EncodedText:
    config = TextData(path="x", **settings)
    return TextEncoder(tokenizer, config).encode(document_of_row("name", row, config))


def said(tokenizer, found: EncodedText) -> list[str]:
    """The text of each run of labelled tokens."""
    runs = [] if found.spans is None else found.spans.tolist()
    return [tokenizer.decode(found.tokens[first + 1 : last + 2]) for first, last in runs]


def talk(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer()


@settings(deadline=None)
@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_positions_they_are_made_of(positions):
    spans = spans_of(np.array(sorted(positions), int))
    assert positions_of(spans).tolist() == sorted(positions)
    assert (spans[1:, 0] > spans[:-1, 1] + 1).all()
    assert (spans[:, 0] <= spans[:, 1]).all()
    assert (spans.dtype, spans.shape) == (np.int32, (len(spans), 2))


@settings(deadline=None)
@given(st.text(max_size=12), st.text(max_size=12))
def test_a_prompt_and_its_completion_are_one_text_of_which_the_second_part_is_labelled(prompt, completion):
    tokenizer = _BYTES
    found = encoded(tokenizer, {"p": prompt, "c": completion}, **PROMPT)
    assert found.tokens.tolist() == encode_document(tokenizer, prompt + completion).tolist()
    bytes_before, bytes_after = len(prompt.encode()), len(completion.encode())
    wanted = range(bytes_before, bytes_before + bytes_after + 1) if completion else range(0)
    assert found.positions.tolist() == list(wanted)  # the BOS shifts tokens by one, labels come one before
    assert encoded(tokenizer, {"p": prompt, "c": completion}, **PROMPT, mask="all").spans is None


_BYTES = chat_tokenizer(None)


@pytest.mark.parametrize(
    ("prompt", "completion", "labelled"),
    [
        ("say", " hello", [" hello", "<|im_end|>"]),
        ("say ", "hello", ["<|im_end|>"]),  # " hello" is one token, and begins in the prompt
        ("(\n", "hello", ["h", "e", "l", "l", "o", "<|im_end|>"]),  # "(\n" is one token, and no part of what follows
        ("<|im_end|>", "<s>", ["<", "s", ">", "<|im_end|>"]),  # special tokens spelled out in a text are text
    ],
)
def test_a_token_on_the_border_belongs_where_it_begins(prompt, completion, labelled):
    tokenizer = chat_tokenizer(None, words=(" hello", "(Ċ"))
    found = encoded(tokenizer, {"p": prompt, "c": completion}, **PROMPT)
    assert tokenizer.decode(found.tokens) == f"<s>{prompt}{completion}<|im_end|>"
    assert [tokenizer.decode([token]) for token in found.tokens[found.positions + 1]] == labelled


def test_the_assistant_speaks_up_to_the_token_that_ends_its_turn(tokenizer):
    found = encoded(tokenizer, talk(*TURNS), **CHAT)
    assert said(tokenizer, found) == ["Yes é.<|im_end|>", "No.<|im_end|>"]
    whole = tokenizer.apply_chat_template(talk(*TURNS)["messages"], return_dict=False)
    assert found.tokens.tolist() == whole
    everything = encoded(tokenizer, talk(*TURNS), **CHAT, mask="all")
    assert everything.tokens.tolist() == whole
    assert everything.spans is None


def test_a_template_that_writes_the_bos_is_the_only_one_to_write_it(tokenizer):
    found = encoded(chat_tokenizer(BEGUN), talk(*TURNS), **CHAT)
    assert (found.tokens == tokenizer.bos_token_id).sum() == 1
    assert found.tokens[0] == tokenizer.bos_token_id
    assert (encoded(tokenizer, talk(*TURNS), **CHAT).tokens == tokenizer.bos_token_id).sum() == 0


def test_marks_of_a_template_say_what_prefixes_say(tokenizer):
    marked = chat_tokenizer(MARKED)
    found = encoded(marked, talk(*TURNS), **CHAT)
    by_transformers = marked.apply_chat_template(
        talk(*TURNS)["messages"], return_dict=True, return_assistant_tokens_mask=True
    )
    assert found.tokens.tolist() == by_transformers["input_ids"]
    assert (found.positions + 1).tolist() == np.flatnonzero(by_transformers["assistant_masks"]).tolist()
    assert said(marked, found) == said(tokenizer, encoded(tokenizer, talk(*TURNS), **CHAT))


def test_a_template_that_rewrites_earlier_turns_is_refused_by_name(tokenizer, tmp_path):
    (tmp_path / "forgetful.jinja").write_text(FORGETFUL)
    template = {"chat_template": str(tmp_path / "forgetful.jinja")}
    assert said(tokenizer, encoded(tokenizer, talk(*TURNS[:3]), **CHAT, **template)) == ["Yes é.<|im_end|>"]
    with pytest.raises(
        ConfigError, match=r"forgetful\.jinja does not render the first 3 messages of 'name'.*mask: all"
    ):
        encoded(tokenizer, talk(*TURNS), **CHAT, **template)
    assert encoded(tokenizer, talk(*TURNS), **CHAT, **template, mask="all").spans is None


def test_a_conversation_that_a_good_template_rewrites_is_bad_alone():
    thoughts = "{% for message in messages %}{{ message.role }}{% if loop.last %}{{ message.thought }}{% endif %}\n"
    tokenizer = chat_tokenizer(thoughts + "{{ message.content }}{% endfor %}")
    tokenizer.chat_template += "{% if add_generation_prompt %}assistant{% endif %}"
    row = talk(*TURNS[1:])
    assert said(tokenizer, encoded(tokenizer, row, **CHAT)) == ["Yes é.", "No."]
    row["messages"][1]["thought"] = "Hm."
    with pytest.raises(UnreadableDocument, match=r"'name'.*rewrites earlier turns.*on_unreadable: skip"):
        encoded(tokenizer, row, **CHAT)
    assert len(encoded(tokenizer, row, **CHAT, on_unreadable="skip").tokens) == 0


def test_no_template_knows_today(tmp_path):
    asks = "{% if not day is defined %}{% set day = strftime_now('%d') %}{% endif %}{{ day }}|"
    for template in (CHATML, MARKED):
        tokenizer = chat_tokenizer(asks + template)
        with pytest.raises(ConfigError, match=r"today's date.*template_arguments"):
            encoded(tokenizer, talk(*TURNS), **CHAT, template_arguments={"other": 1})
        found = encoded(tokenizer, talk(*TURNS), **CHAT, template_arguments={"day": "Monday"})
        assert tokenizer.decode(found.tokens).startswith("Monday|")
        row = {**talk(*TURNS), "chat_template_kwargs": {"day": "Sunday"}}
        assert tokenizer.decode(encoded(tokenizer, row, **CHAT).tokens).startswith("Sunday|")


def test_what_a_template_gets_beside_the_messages(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ tools[0].name }} {{ day }} {{ messages[0].extra }}|" + CHATML)
    row = {**talk(*TURNS), "tools": [{"name": "f"}], "chat_template_kwargs": {"day": "Monday"}}
    row["messages"][0]["extra"] = "more"
    settings = {**CHAT, "chat_template": str(tmp_path / "t.jinja"), "template_arguments": {"day": "Sunday"}}
    tokenizer = chat_tokenizer(None)
    assert tokenizer.decode(encoded(tokenizer, row, **settings).tokens).startswith("f Monday more|<|im_start|>system\n")
    del row["chat_template_kwargs"]
    assert "f Sunday" in tokenizer.decode(encoded(tokenizer, row, **settings).tokens)


def test_nothing_to_label(tokenizer):
    for found in (
        encoded(tokenizer, {"p": "asked", "c": ""}, **PROMPT),
        encoded(tokenizer, talk(("user", "a?")), **CHAT),
    ):
        assert found.spans is not None
        assert found.spans.shape == (0, 2)
        assert found.positions.tolist() == []
        assert len(found.tokens) > 3


@pytest.mark.parametrize(
    ("template", "turns", "error", "says"),
    [
        ("{{ raise_exception('roles must alternate') }}", TURNS, UnreadableDocument, "'name'.*roles must alternate"),
        ("{{ messages[0].content.x() }}", TURNS, UnreadableDocument, "'name'.*UndefinedError"),
        ("{{ 1 / 0 }}", TURNS, UnreadableDocument, "'name'.*ZeroDivisionError"),
        (CHATML, (("assistant", "hello"),), UnreadableDocument, "begins with the assistant"),
        ("{{ strftime_now('%Y') }}" + CHATML, TURNS, ConfigError, "today's date"),
        (None, TURNS, ConfigError, "set data.chat_template"),
    ],
)
def test_what_cannot_be_rendered(template, turns, error, says):
    tokenizer = chat_tokenizer(template)
    with pytest.raises(error, match=says):
        encoded(tokenizer, talk(*turns), **CHAT)
    if error is UnreadableDocument:
        found = encoded(tokenizer, talk(*turns), **CHAT, on_unreadable="skip")
        assert (len(found.tokens), len(found.positions)) == (0, 0)


def test_a_missing_template_file_and_a_slow_tokenizer_are_named(tokenizer):
    with pytest.raises(ConfigError, match=r"nowhere\.jinja"):
        TextEncoder(tokenizer, TextData(path="x", **CHAT, chat_template="nowhere.jinja"))

    class Slow:
        name_or_path, chat_template, added_tokens_decoder = "models/slow", CHATML, {}

    for shape in (CHAT, PROMPT):
        with pytest.raises(TokenizerMismatch, match="models/slow"):
            TextEncoder(Slow(), TextData(path="x", **shape))  # pyright: ignore[reportArgumentType]


def test_identity_names_mask_and_template_only_where_they_count(tokenizer):
    def identity(template=CHATML, **settings):
        return TextEncoder(chat_tokenizer(template), TextData(path="x", **settings)).identity()

    assert identity() == TextEncoder(tokenizer, PythonStdlibData()).identity() == {}
    assert identity(**PROMPT, mask="all") == {}
    assert identity(**PROMPT) == {"mask": "completion"}
    assert identity(**CHAT)["mask"] == "assistant"
    assert identity(**CHAT, mask="all").keys() == {"chat_template"}
    digests = [
        identity(**CHAT, **more)["chat_template"]
        for more in ({}, {"template_arguments": {"x": 1}}, {"template": MARKED})
    ]
    assert len(set(digests)) == 3


def test_the_beginning_of_a_document_has_its_first_labels(tokenizer):
    plain = TextEncoder(tokenizer, TextData(path="x")).encode(TextDocument("name", "abcdef"))
    assert plain.beginning(3).tokens.tolist() == plain.tokens[:4].tolist()
    assert plain.beginning(100).tokens.tolist() == plain.tokens.tolist()
    found = encoded(tokenizer, talk(*TURNS), **CHAT)
    for count in (0, 1, 5, 9, 100):
        start = found.beginning(count)
        assert start.positions.tolist() == found.positions[:count].tolist()
        assert len(start.tokens) == (found.positions[:count][-1] + 2 if count else 1)


@pytest.mark.parametrize("length", [0, 1, 2, 24, 25, 90])
def test_of_a_whole_text_every_token_that_is_answered_is_read_once(length: int) -> None:
    assert EncodedText(np.arange(length)).num_read(24, 8) == max(0, length - 1)


def test_of_a_masked_text_the_windows_with_labels_are_read_with_their_context() -> None:
    tokens = np.arange(100)
    assert EncodedText(tokens, spans_of(np.arange(0))).num_read(24, 8) == 0
    assert EncodedText(tokens, spans_of(np.arange(20, 23))).num_read(24, 8) == 24  # a prompt of 21 tokens and 3 labels
    assert EncodedText(tokens, spans_of(np.arange(22, 26))).num_read(24, 8) == 24 + 16  # two windows, 8 tokens in both
    assert EncodedText(tokens, spans_of(np.array([3, 98]))).num_read(24, 8) == 24 + 11 + 8
