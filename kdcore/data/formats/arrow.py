"""Arrow IPC, files and streams alike: a schema, dictionaries and record batches, one message after the other.

A file is a stream between two marks, so both are read by the heads of their messages, which say how long each is and
how many rows it has; bodies of other batches are not read. The heads are flatbuffers, of which three numbers are
needed: https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from kdcore.data.formats.table import Groups, TableFormat, opened
from kdcore.data.inputs import raise_passing
from kdcore.errors import DataError, KDError

_MARK, _FEATHER_1 = b"ARROW1", b"FEA1"
_CONTINUES = 0xFFFFFFFF
_END = struct.pack("<Ii", _CONTINUES, 0)
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3
_HEAD_BYTES = 64 << 10


@dataclass(frozen=True)
class _Message:
    """Where a message lies, what it is, and, for a batch, its rows."""

    start: int
    num_bytes: int
    kind: int
    rows: int


class ArrowIPC(TableFormat):
    """Files of Arrow; a batch is read whole, of which the needed columns are kept."""

    def _look(self, path: str) -> Groups:
        try:
            with opened(path, _HEAD_BYTES) as file:
                messages = list(_messages(file))
                before = [message for message in messages if message.kind != _BATCH]
                schema = pa.ipc.open_stream(pa.py_buffer(_bytes(file, before[:1]) + _END)).schema
                names = schema.names
        except KDError:
            raise
        except (OSError, ValueError, IndexError, struct.error, pa.ArrowException) as error:
            raise_passing(path, error)
            raise DataError(f"data.path must match Arrow files; '{path}' is not one: {error}") from error
        batches = [message for message in messages if message.kind == _BATCH]
        wanted = self._columns.of(path, names)
        bounds = list(itertools.accumulate((batch.rows for batch in batches), initial=0))
        fields = [names.index(name) for name in wanted]
        groups = Groups(bounds, [batch.num_bytes for batch in batches], (before, batches, fields))
        self._check_rows(path, groups)
        return groups

    def _check_rows(self, path: str, groups: Groups) -> None:
        """A batch of more rows than its bytes have bits is packed very well, or its head is damaged: looked at now."""
        for number, num_bytes in enumerate(groups.num_bytes):
            if groups.bounds[number + 1] - groups.bounds[number] <= 8 * num_bytes:
                continue
            try:
                self._read(path, groups, number).validate()
            except KDError:
                raise
            except (OSError, ValueError, pa.ArrowException) as error:
                raise_passing(path, error)
                raise DataError(f"'{path}' is damaged: record batch {number} has fewer rows than it says") from error

    def _read(self, path: str, groups: Groups, number: int) -> pa.RecordBatch:
        before, batches, fields = groups.found
        batch = batches[number]
        needed = [message for message in before if message.start < batch.start]
        with opened(path) as file:
            content = _bytes(file, [*needed, batch])
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        return pa.ipc.open_stream(pa.py_buffer(content + _END), options=options).read_next_batch()


def _bytes(file: pa.NativeFile, messages: list[_Message]) -> bytes:
    parts = []
    for message in messages:
        file.seek(message.start)
        parts.append(file.read(message.num_bytes))
    return b"".join(parts)


def _messages(file: pa.NativeFile) -> Iterator[_Message]:
    """All messages. Raises ValueError or struct.error for what is none, or ends in the middle of one."""
    size = file.size()
    mark = file.read(len(_MARK))
    if mark.startswith(_FEATHER_1):
        raise ValueError("it is of Feather's first version; write it anew as Arrow or Parquet")
    is_file = mark == _MARK
    start = 8 if is_file else 0
    while start < size:
        file.seek(start)
        continues, length = struct.unpack("<Ii", file.read(8))
        if continues != _CONTINUES:
            raise ValueError(f"at byte {start} no message of Arrow begins")
        if length == 0:
            return
        if not 0 < length <= size - start:
            raise ValueError(f"the message at byte {start} has a head of {length} bytes")
        kind, body, rows = _head(file.read(length))
        num_bytes = 8 + length + body
        if start + num_bytes > size:
            raise ValueError(
                f"it is cut off: the message at byte {start} has {num_bytes} bytes, {size - start} are left"
            )
        yield _Message(start, num_bytes, kind, rows)
        start += num_bytes
    if is_file:
        raise ValueError("it is cut off before its end")


def _head(head: bytes) -> tuple[int, int, int]:
    """Kind of a message, bytes of its body, and rows of a batch, from the tables `Message` and `RecordBatch`."""
    message = struct.unpack_from("<I", head)[0]
    kind, body = _field(head, message, 1), _field(head, message, 3)
    found = struct.unpack_from("<B", head, kind)[0] if kind else 0
    if found not in (_SCHEMA, _DICTIONARY, _BATCH):
        raise ValueError(f"a message is of kind {found}")
    num_bytes = struct.unpack_from("<q", head, body)[0] if body else 0
    rows = 0
    if found == _BATCH:
        at = _field(head, message, 2)
        batch = at + struct.unpack_from("<I", head, at)[0]
        length = _field(head, batch, 0)
        rows = struct.unpack_from("<q", head, length)[0] if length else 0
    if num_bytes < 0 or rows < 0:
        raise ValueError(f"a message has {num_bytes} bytes and {rows} rows")
    return found, num_bytes, rows


def _field(head: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table lies, 0 where it has its default."""
    layout = table - struct.unpack_from("<i", head, table)[0]
    place = 4 + 2 * number
    if place >= struct.unpack_from("<H", head, layout)[0]:
        return 0
    offset = struct.unpack_from("<H", head, layout + place)[0]
    return table + offset if offset else 0
