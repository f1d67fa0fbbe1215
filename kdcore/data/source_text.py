"""Text files, one document each, or JSON lines, one document a line."""

import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from kdcore.config.data import TextData
from kdcore.data.base import BaseSource
from kdcore.data.document import WHOLE_FILE, Extent, Kind, SampleRef, TextDocument
from kdcore.data.files import EXTENT_BYTES, find_files, whole_file, whole_sample
from kdcore.data.rows import document_of_row
from kdcore.errors import UnreadableDocument

_JSON_LINES = (".jsonl", ".ndjson")


class TextSource(BaseSource):
    """Files with a name ending in .jsonl or .ndjson are JSON lines; every other file is one UTF-8 document.

    A line is known by the byte it begins at, so any process can read it without those before it.
    """

    kind: Kind = "text"

    def __init__(self, config: TextData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._config = config

    def read(self, ref: SampleRef) -> TextDocument:
        """The document. Raises UnreadableDocument for bytes that are not UTF-8, or a line that is no such row."""
        if ref.index == WHOLE_FILE:
            if self._config.shape != "field":
                raise unreadable(ref, f"data.{self._config.shape} asks for JSON lines (.jsonl), this is plain text")
            return TextDocument(ref.name, read_text(ref))
        return self._document(ref, _read_line(ref))

    def _find(self) -> Iterator[Extent]:
        return _extents(find_files(self._config.path, "data.path"))

    def _find_heldout(self) -> Iterator[Extent] | None:
        heldout = self._config.heldout
        return None if heldout is None else _extents(find_files(heldout, "data.heldout"))

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        if not extent.source.endswith(_JSON_LINES):
            yield whole_sample(extent)
            return
        with open(extent.source, "rb") as file:
            for offset, size in _lines(file, extent.start, extent.stop):
                yield SampleRef(f"{extent.name}@{offset:012d}", extent.source, offset, size)

    def _document(self, ref: SampleRef, line: bytes) -> TextDocument:
        try:
            row = json.loads(line)
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError
            raise unreadable(ref, f"line {_line_number(ref)} is not JSON: {error}") from error
        try:
            return document_of_row(ref.name, row, self._config)
        except UnreadableDocument as error:
            raise unreadable(ref, f"line {_line_number(ref)} {error.message}") from error


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


def _extents(files: dict[str, str]) -> Iterator[Extent]:
    for name, path in files.items():
        if not path.endswith(_JSON_LINES):
            yield whole_file(name, path)
            continue
        size = os.path.getsize(path)
        for start in range(0, size, EXTENT_BYTES):
            stop = min(size, start + EXTENT_BYTES)
            yield Extent(name, path, start, stop, stop - start)


def _lines(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the lines that begin in start..stop-1 and are not empty, white space not counted."""
    file.seek(max(0, start - 1))
    if start:
        file.readline()  # the rest of a line that began before, or the line end just before the first
    offset = file.tell()
    while offset < stop and (line := file.readline()):
        if bare := line.strip():
            yield offset + len(line) - len(line.lstrip()), len(bare)
        offset += len(line)


def _read_line(ref: SampleRef) -> bytes:
    try:
        with open(ref.source, "rb") as file:
            file.seek(ref.index)
            return file.read(ref.num_bytes)
    except OSError as error:
        raise unreadable(ref, str(error)) from error


def _line_number(ref: SampleRef) -> int:
    """What an editor calls the line; read for a message alone."""
    with open(ref.source, "rb") as file:
        return 1 + sum(1 for _ in _lines_before(file, ref.index))


def _lines_before(file: BinaryIO, offset: int) -> Iterator[bytes]:
    for line in file:
        offset -= len(line)
        if offset < 0:
            return
        yield line
