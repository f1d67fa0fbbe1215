"""A row of a table or a line of JSON as a document: a text, a prompt and its completion, or a conversation."""

from collections.abc import Mapping
from typing import Any

from kdcore.config.data import RowData
from kdcore.data.document import Conversation, TextDocument
from kdcore.data.formats.base import Columns
from kdcore.errors import UnreadableDocument
from kdcore.identity import canonical_json

__all__ = ["columns_of", "document_of_row"]

_TOOLS, _ARGUMENTS = "tools", "chat_template_kwargs"


def document_of_row(name: str, row: Any, config: RowData) -> TextDocument:
    """The document of a row; only the keys that `config` names, and those of a chat template, are looked at.

    Raises UnreadableDocument that says what is wrong with the row, and no more: the caller knows where it lies.
    """
    if not isinstance(row, Mapping):
        raise UnreadableDocument(f"must be an object with keys, it is {type(row).__name__}")
    if config.messages_field is not None:
        conversation = _conversation(row, config.messages_field)
        text = "\n".join(message["content"] for message in conversation.messages)
        return TextDocument(name, text, conversation=conversation)
    if config.prompt_field is not None and config.completion_field is not None:
        prompt = text_of(row, config.prompt_field, "prompt_field")
        completion = text_of(row, config.completion_field, "completion_field")
        return TextDocument(name, prompt + completion, prompt=len(prompt))
    return TextDocument(name, text_of(row, config.field, "field"))


def columns_of(config: RowData) -> Columns:
    """The columns of a table that `document_of_row` looks at."""
    if config.messages_field is not None:
        return Columns({config.messages_field: "data.messages_field"}, (_TOOLS, _ARGUMENTS))
    if config.prompt_field is not None and config.completion_field is not None:
        return Columns({config.prompt_field: "data.prompt_field", config.completion_field: "data.completion_field"})
    return Columns({config.field: "data.field"})


def text_of(row: Mapping[str, Any], key: str, setting: str) -> str:
    """The text of a row under `key`, which `data.<setting>` names. UnreadableDocument where it has none."""
    value = row.get(key)
    if not isinstance(value, str):
        instead = f"but {type(value).__name__}" if key in row else f"only {sorted(map(str, row))}"
        raise UnreadableDocument(f"has no text under '{key}', {instead}; set data.{setting}")
    _check_encodable(value, key)
    return value


def _check_encodable(text: str, key: str) -> None:
    # JSON can spell half a surrogate pair, which no tokenizer or digest can encode.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnreadableDocument(f"has an unpaired surrogate under '{key}': {error}") from error


def _conversation(row: Mapping[str, Any], key: str) -> Conversation:
    messages = row.get(key)
    if not isinstance(messages, list):
        raise UnreadableDocument(
            f"has no list of messages under '{key}', only {sorted(map(str, row))}; set data.messages_field"
        )
    tools, arguments = row.get(_TOOLS) or [], row.get(_ARGUMENTS) or {}
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UnreadableDocument(f"must have a list of objects under '{_TOOLS}', or nothing")
    if not isinstance(arguments, Mapping):
        raise UnreadableDocument(f"must have an object under '{_ARGUMENTS}', or nothing")
    try:
        found = Conversation(
            [_message(message, f"{key}[{number}]") for number, message in enumerate(messages)],
            _without_nulls(tools),
            _without_nulls(arguments),
        )
        content = canonical_json(found.parts())
    except UnreadableDocument:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # bytes, dates, NaN, a thousand brackets
        raise UnreadableDocument(f"has under '{key}', or beside it, what is no JSON: {error}") from error
    _check_encodable(content, key)
    return found


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise UnreadableDocument(f"must have objects with a `role` as messages; {where} is {str(message)[:80]!r}")
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        content = ""  # as OpenAI's format has it for a turn that only calls tools
    if isinstance(content, list):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str):
        raise UnreadableDocument(
            f"must have a text, or text parts, as `content` of {where}; it is {str(content)[:80]!r}"
        )
    return {**_without_nulls(message), "content": content}


def _part(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    raise UnreadableDocument(f"may have only text parts in `content` of {where}; one is of type {kind!r}")


def _without_nulls(value: Any) -> Any:
    """Objects without their null keys: a table gives every row the keys of all rows, JSON lines do not."""
    if isinstance(value, Mapping):
        return {str(key): _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list | tuple) else value
