"""Text files, one document each, or JSON lines, one document a line."""

import json
import os
from functools import lru_cache

from kdcore.config.data import TextData
from kdcore.data.base import BaseSource
from kdcore.data.document import WHOLE_FILE, Kind, Refs, SampleRef, TextDocument
from kdcore.data.files import find_files
from kdcore.errors import UnreadableDocument

_JSON_LINES = (".jsonl", ".ndjson")


class TextSource(BaseSource):
    """Files with a name ending in .jsonl or .ndjson are JSON lines; every other file is one UTF-8 document."""

    kind: Kind = "text"

    def __init__(self, config: TextData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._config = config

    def read(self, ref: SampleRef) -> TextDocument:
        """The document. Raises UnreadableDocument for bytes that are not UTF-8, or a line without the text's key."""
        if ref.index == WHOLE_FILE:
            return TextDocument(ref.name, read_text(ref))
        return TextDocument(ref.name, self._text_of_line(ref, _read_line(ref)))

    def _find(self) -> Refs:
        return _refs(find_files(self._config.path, "data.path"))

    def _find_heldout(self) -> Refs | None:
        heldout = self._config.heldout
        return None if heldout is None else _refs(find_files(heldout, "data.heldout"))

    def _text_of_line(self, ref: SampleRef, line: bytes) -> str:
        try:
            row = json.loads(line)
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
            raise unreadable(ref, f"line {ref.index + 1} is not JSON: {error}") from error
        field = self._config.field
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            keys = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise unreadable(ref, f"line {ref.index + 1} has no text under '{field}', only {keys}; set data.field")
        return _without_surrogates(ref, row[field])


def read_text(ref: SampleRef) -> str:
    """The whole file as UTF-8, line ends as they are. Raises UnreadableDocument."""
    try:
        with open(ref.source, "rb") as file:
            return file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(ref, str(error)) from error


def unreadable(ref: SampleRef, reason: str) -> UnreadableDocument:
    """The error of one sample, naming it, its file and what to set."""
    return UnreadableDocument(
        f"Every sample must be readable; '{ref.name}' ({ref.source}) is not: {reason}. "
        "Repair or remove it, or set data.on_unreadable: skip."
    )


def _without_surrogates(ref: SampleRef, text: str) -> str:
    # JSON can spell half a surrogate pair, which no tokenizer or digest can encode.
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise unreadable(ref, f"line {ref.index + 1} has an unpaired surrogate: {error}") from error
    return text


def _refs(files: dict[str, str]) -> Refs:
    refs: Refs = []
    for name, path in files.items():
        if not path.endswith(_JSON_LINES):
            refs.append(SampleRef(name, path, WHOLE_FILE, os.path.getsize(path)))
            continue
        spans = enumerate(_line_spans(path, _version(path)))
        refs += [SampleRef(f"{name}#{line:09d}", path, line, size) for line, (_, size) in spans if size > 0]
    return refs


def _read_line(ref: SampleRef) -> bytes:
    try:
        start, size = _line_spans(ref.source, _version(ref.source))[ref.index]
        with open(ref.source, "rb") as file:
            file.seek(start)
            return file.read(size)
    except (OSError, IndexError) as error:
        raise unreadable(ref, f"line {ref.index + 1}: {error}") from error


def _version(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _line_spans(path: str, version: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(offset, bytes) of every line, white space not counted; `version` drops the answer of a changed file."""
    spans: list[tuple[int, int]] = []
    offset = 0
    with open(path, "rb") as file:
        for line in file:
            leading = len(line) - len(line.lstrip())
            spans.append((offset + leading, len(line.strip())))
            offset += len(line)
    return tuple(spans)
