"""Rows of the three shapes as documents, their keys, and what is refused."""

import json

import pytest
from pydantic import ValidationError

from kdcore.config.data import TextData
from kdcore.data.document import TextDocument
from kdcore.data.keys import sample_key
from kdcore.data.rows import document_of_row
from kdcore.data.sources import open_source
from kdcore.errors import UnreadableDocument
from kdcore.identity import sample_key_text

PROMPT = {"prompt_field": "question", "completion_field": "answer"}
CHAT = {"messages_field": "messages"}


def config(**settings) -> TextData:
    return TextData(path="x", **settings)


def document(row, **settings) -> TextDocument:
    return document_of_row("name", row, config(**settings))


def chat(*turns, **beside):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)], **beside}


def test_the_default_mask_is_that_of_the_shape():
    assert config().labelled == "all"
    assert (config(**PROMPT).labelled, config(**PROMPT, mask="all").labelled) == ("completion", "all")
    assert (config(**CHAT).labelled, config(**CHAT, mask="all").labelled) == ("assistant", "all")
    assert config(**TextData(path="x", **CHAT).model_dump(exclude={"path"})) == config(**CHAT)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mask": "assistant"}, "messages_field; rows with field take all"),
        ({**PROMPT, "mask": "assistant"}, "prompt_field take completion or all"),
        ({**CHAT, "mask": "completion"}, "messages_field take assistant or all"),
        ({"prompt_field": "p"}, "come together"),
        ({**PROMPT, **CHAT}, "one shape"),
        ({**CHAT, "field": "body"}, "one shape"),
        ({"chat_template": "x.jinja"}, "set messages_field"),
    ],
)
def test_settings_that_cannot_be_together(settings, says):
    with pytest.raises(ValidationError, match=says):
        config(**settings)


def test_a_text_keeps_its_key_and_a_prompt_has_another_where_it_is_split_elsewhere():
    assert sample_key(document({"text": "ab"})) == sample_key_text("ab")
    splits = [document({"question": "ab"[:n], "answer": "ab"[n:]}, **PROMPT) for n in range(3)]
    assert [found.text for found in splits] == ["ab"] * 3
    assert [found.prompt for found in splits] == [0, 1, 2]
    assert len({sample_key(found) for found in [*splits, document({"text": "ab"})]}) == 4


def test_a_conversation_is_known_by_all_of_its_parts():
    tool = {"type": "function", "function": {"name": "f"}}
    rows = [chat("a", "b"), chat("a", "b", "c"), chat("a", "b", tools=[tool]), chat("ab", "")]
    rows.append(chat("a", "b", chat_template_kwargs={"thinking": False}))
    found = [document(row, **CHAT) for row in rows]
    assert len({sample_key(one) for one in found}) == len(rows)
    assert found[1].text == "a\nb\nc"
    assert found[2].conversation.tools == [tool]
    assert found[4].conversation.arguments == {"thinking": False}


def test_keys_are_fixed_for_good():
    # Literal values: a store of today is found again by later versions, on other machines.
    found = [{"text": "é"}, {"question": "é", "answer": "b"}, chat("é", "b"), chat("é", "b", tools=[{"name": "f"}])]
    keys = [
        sample_key(document(row, **shape)).hex() for row, shape in zip(found, ({}, PROMPT, CHAT, CHAT), strict=True)
    ]
    assert keys == [
        "bb9971319fb370b80b8185762a08ae90",
        "3f34cd18b8323a5539888c81b9573ff8",
        "abaceaa33f3022d13732f81ca9b7f789",
        "998876649be35577b319a7e9fd49a6fb",
    ]


def test_what_a_table_adds_to_a_row_changes_nothing():
    bare = {"messages": [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "x", "name": "n"}]}
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    table = {
        "messages": [
            {"role": "assistant", "content": parts, "name": None},
            {"name": "n", "role": "user", "content": "x", "tool_calls": None},
        ],
        "tools": None,
        "id": 7,
    }
    assert sample_key(document(bare, **CHAT)) == sample_key(document(table, **CHAT))
    call = [{"function": {"name": "f", "arguments": {"x": 1, "y": None}}}]
    row = {"messages": [{"role": "assistant", "content": None, "tool_calls": call}]}
    (message,) = document(row, **CHAT).conversation.messages
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}],
    }


@pytest.mark.parametrize(
    ("row", "settings", "says"),
    [
        ([1], {}, "must be an object"),
        ({"other": 1}, {}, r"under 'text', only \['other'\]; set data.field"),
        ({"question": "a"}, PROMPT, "'answer'.*data.completion_field"),
        ({"question": None, "answer": "a"}, PROMPT, "'question'"),
        ({"question": "\ud800", "answer": "a"}, PROMPT, "surrogate"),
        ({"messages": "hello"}, CHAT, "list of messages"),
        ({"messages": [{"content": "x"}]}, CHAT, "role"),
        ({"messages": [{"role": "user"}]}, CHAT, r"content. of messages\[0\]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, CHAT, "image_url"),
        (chat("\ud800"), CHAT, "surrogate"),
        (chat("a", tools=["f"]), CHAT, "tools"),
        (chat("a", chat_template_kwargs=3), CHAT, "chat_template_kwargs"),
        (chat("a", tools=[{"x": float("nan")}]), CHAT, "no JSON"),
        (chat("a", tools=[{"x": b"bytes"}]), CHAT, "no JSON"),
        (chat("a", tools=[{"x": json.loads("[" * 900 + "]" * 900)}]), CHAT, "no JSON"),
    ],
)
def test_a_row_that_is_none_of_them_says_why(row, settings, says):
    with pytest.raises(UnreadableDocument, match=says):
        document(row, **settings)


def test_lines_of_conversations(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (chat("a", "b"), {"messages": 3})))
    (tmp_path / "b.txt").write_text("plain")
    source = open_source(TextData(path=str(tmp_path / "*"), heldout_fraction=0, **CHAT))
    refs = source.list("train")
    assert source.read(refs[0]) == TextDocument(refs[0].name, "a\nb", conversation=source.read(refs[0]).conversation)
    with pytest.raises(UnreadableDocument, match=r"a\.jsonl.*the line at byte 88 has no list.*on_unreadable"):
        source.read(refs[1])
    with pytest.raises(UnreadableDocument, match="messages_field asks for rows"):
        source.read(refs[2])
