"""JSON lines: one row a line, known by the byte at which it begins, so that any process reads it without the others."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from kdcore.data.document import Extent, SampleRef, unreadable
from kdcore.data.files import NamedFile
from kdcore.data.formats import base
from kdcore.data.formats.base import check_length
from kdcore.data.formats.recent import Recent
from kdcore.data.inputs import inputs_of
from kdcore.errors import DataError

_BLOCK_BYTES = 1 << 20
_SCAN_BYTES = 8 << 20
_FILES = 8


class Lines:
    """Files as they lie; extents are ranges of bytes. A line of more than `max_bytes` is not kept, nor read to its end
    for itself.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: Recent[str, BinaryIO] = Recent(_FILES)
        self._lock = threading.Lock()
        self._listed = "", 0, b""

    def cut(self, file: NamedFile) -> Iterator[Extent]:
        """Ranges of equal bytes; a line belongs to the range in which it begins."""
        size = file.file.num_bytes
        for start in range(0, size, base.EXTENT_BYTES):
            stop = min(size, start + base.EXTENT_BYTES)
            yield base.slice_of(file, start, stop, stop - start)

    def samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The lines that are not empty; the one that was just listed is read without going to the file again."""
        with inputs_of(extent.source).open(extent.source, _SCAN_BYTES) as file:
            for offset, line in _lines(file, extent.start, extent.stop, self._max_bytes):
                self._listed = extent.source, offset, line
                yield SampleRef(f"{extent.name}@{offset:012d}", extent.source, offset, len(line))

    def row(self, ref: SampleRef) -> Any:
        """The line's value."""
        check_length(ref, self._max_bytes, self.place(ref))
        source, offset, line = self._listed
        if (source, offset) != (ref.source, ref.index):
            line = self._line(ref)
        return parsed(ref, line, self.place)

    def _line(self, ref: SampleRef) -> bytes:
        inputs = inputs_of(ref.source)
        try:
            with self._lock:
                file = self._files.get(ref.source, lambda: inputs.open(ref.source, _BLOCK_BYTES))
                file.seek(ref.index)
                return file.read(ref.num_bytes)
        except DataError as error:
            self._files.drop(ref.source)
            raise unreadable(ref, str(error)) from error

    def place(self, ref: SampleRef) -> str:
        """The line's first byte: to count the lines before every bad one would be to read the file as often."""
        return f"the line at byte {ref.index}"


def parsed(ref: SampleRef, line: bytes, place: Callable[[SampleRef], str]) -> Any:
    """The value of a line. Raises UnreadableDocument for what is no JSON in UTF-8."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError
        raise unreadable(ref, f"{place(ref)} is not JSON: {error}") from error


def _lines(file: BinaryIO, start: int, stop: int, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of the lines that begin in start..stop-1 and are not empty, without white space around them.

    Of a line of more than `max_bytes`, its end counted, the first `max_bytes` + 1.
    """
    offset = max(0, start - 1)
    file.seek(offset)
    if start:  # the rest of a line that began before, or the line end just before the first
        offset = _after_line(file, offset, stop)
    while offset < stop and (line := file.readline(max_bytes + 1)):
        begin, offset = offset, offset + len(line)
        if len(line) > max_bytes:
            offset = offset if line.endswith(b"\n") else _after_line(file, offset, stop)
            yield begin, line
        elif bare := line.strip():
            yield begin + len(line) - len(line.lstrip()), bare


def _after_line(file: BinaryIO, offset: int, stop: int) -> int:
    """Where the line ends that `offset` is in; no further than `stop` is looked."""
    while offset < stop and (piece := file.readline(min(base.PIECE_BYTES, stop - offset))):
        offset += len(piece)
        if piece.endswith(b"\n"):
            return offset
    return max(offset, stop)
