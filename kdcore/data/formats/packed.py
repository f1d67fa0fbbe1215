"""JSON lines in a compressed file, read from its beginning: one extent a file, rows by their place in the text."""

import contextlib
import gzip
import io
import threading
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from kdcore.data.document import Extent, SampleRef, unreadable
from kdcore.data.files import NamedFile
from kdcore.data.formats.base import PIECE_BYTES, check_length, slice_of
from kdcore.data.formats.lines import parsed
from kdcore.data.formats.recent import Recent
from kdcore.data.inputs import inputs_of
from kdcore.errors import DataError, KDError

_BLOCK_BYTES = 8 << 20
# What Arrow has unpacked is lost where the stream breaks: little is asked for at a time.
_STEP_BYTES = 4 << 10
_FILES = 4


class _Broken(DataError):
    """A packed stream ends too soon, or is no such stream."""


class PackedLines:
    """Files in gzip or zstd. Rows in order cost one pass; an earlier one starts again at the beginning."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._cursors: Recent[str, _Cursor] = Recent(_FILES)
        self._lock = threading.Lock()

    def cut(self, file: NamedFile) -> Iterator[Extent]:
        """The file, in packed bytes: how long the text is shows only at its end."""
        yield slice_of(file, 0, file.file.num_bytes, file.file.num_bytes)

    def samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The lines that are not empty; where the stream breaks, one more sample that cannot be read."""
        offset = 0
        while True:
            try:
                line = self._line(extent.source, offset)
                length = len(line) if len(line) <= self._max_bytes else self._length(extent.source, offset)
            except _Broken:
                yield SampleRef(f"{extent.name}@{offset:012d}", extent.source, offset, 0)
                return
            if not line:
                return
            if length > self._max_bytes:
                yield SampleRef(f"{extent.name}@{offset:012d}", extent.source, offset, length)
            elif bare := line.strip():
                begin = offset + length - len(line.lstrip())
                yield SampleRef(f"{extent.name}@{begin:012d}", extent.source, begin, len(bare))
            offset += length

    def row(self, ref: SampleRef) -> Any:
        """The line's value."""
        check_length(ref, self._max_bytes, self.place(ref))
        try:
            line = self._line(ref.source, ref.index)
        except DataError as error:
            raise unreadable(ref, f"{self.place(ref)}: {error}") from error
        return parsed(ref, line[: ref.num_bytes], self.place)

    def place(self, ref: SampleRef) -> str:
        """The line's first byte in the text."""
        return f"the line at byte {ref.index} of the unpacked text"

    def _line(self, path: str, offset: int) -> bytes:
        with self._cursor(path) as cursor:
            return cursor.line(offset)

    def _length(self, path: str, offset: int) -> int:
        with self._cursor(path) as cursor:
            return cursor.length(offset)

    @contextlib.contextmanager
    def _cursor(self, path: str) -> Iterator["_Cursor"]:
        with self._lock:
            try:
                yield self._cursors.get(path, lambda: _Cursor(path, self._max_bytes))
            except KDError:
                self._cursors.drop(path)
                raise


class _Cursor:
    """Goes through a packed file line by line; the line it is at is held, or its first `max_bytes` + 1."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._stream = _unpacked(path)
        self._start, self._held = 0, b""

    def line(self, offset: int) -> bytes:
        """What the line holds from `offset` on, b"" at the end. Raises _Broken where the stream is."""
        if not self._start <= offset < self._start + len(self._held):
            with self._broken():
                self._go(offset)
                self._start, self._held = offset, self._stream.readline(self._max_bytes + 1)
        return self._held[offset - self._start :]

    def length(self, offset: int) -> int:
        """How long a line is, from `offset` to its end, of which nothing is held then."""
        found = len(self.line(offset))
        piece, self._held = self._held, b""
        with self._broken():
            while piece and not piece.endswith(b"\n"):
                piece = self._stream.readline(PIECE_BYTES)
                found += len(piece)
        self._start = offset + found
        return found

    @contextlib.contextmanager
    def _broken(self) -> Iterator[None]:
        try:
            yield
        except KDError:
            raise
        except (OSError, EOFError, ValueError, pa.ArrowException, zlib.error) as error:
            raise _Broken(f"'{self._path}' is cut off or damaged: {error}") from error

    def _go(self, offset: int) -> None:
        at = self._start + len(self._held)
        if offset < at:
            self._stream = _unpacked(self._path)
            at = 0
        self._start, self._held = offset, b""
        while at < offset:
            skipped = len(self._stream.read(min(offset - at, 1 << 20)))
            if not skipped:
                raise EOFError("it is shorter than when it was listed")
            at += skipped


def _unpacked(path: str) -> BinaryIO:
    file = inputs_of(path).open(path, _BLOCK_BYTES)
    if path.lower().endswith(".gz"):
        return gzip.GzipFile(fileobj=file, mode="rb")  # pyright: ignore[reportReturnType]
    return io.BufferedReader(_Steps(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")), _STEP_BYTES)


class _Steps(io.RawIOBase):
    """An Arrow stream for Python's buffers, always in the same steps: a break shows at the same place to everybody."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = self._stream.read(min(len(buffer), _STEP_BYTES))
        buffer[: len(data)] = data
        return len(data)
