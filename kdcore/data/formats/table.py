"""Tables in files: rows by number, read a group at a time, only the columns that are needed."""

import bisect
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kdcore.config.urls import is_url
from kdcore.data.document import Extent, SampleRef, unreadable
from kdcore.data.files import NamedFile
from kdcore.data.formats.base import Columns, merged
from kdcore.data.formats.recent import Recent
from kdcore.data.inputs import inputs_of, raise_passing
from kdcore.errors import DataError, KDError

_FILES = 64
_GROUPS = 2


@dataclass(frozen=True)
class Groups:
    """How a table is read: `bounds`, the first row of each group and, last, the number of rows; bytes of each.

    `found` is whatever the format needs to read one.
    """

    bounds: list[int]
    num_bytes: list[int]
    found: Any


@dataclass(frozen=True)
class _Held:
    """A group in memory. One that is not `sound` has a row that must not be looked at: a wild offset, no UTF-8."""

    table: pa.Table
    sound: bool


class TableFormat(ABC):
    """Groups are read whole and the last two are kept: rows in order cost one pass."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._looked: Recent[str, Groups] = Recent(_FILES)
        # A group that cannot be read stays so: its rows are not tried one by one.
        self._groups: Recent[tuple[str, int], _Held | DataError] = Recent(_GROUPS)

    @abstractmethod
    def _look(self, path: str) -> Groups:
        """The groups of a file, by its metadata. Raises DataError for a file that is no such table."""

    @abstractmethod
    def _read(self, path: str, groups: Groups, number: int) -> pa.Table | pa.RecordBatch:
        """The needed columns of one group."""

    def groups(self, path: str) -> Groups:
        """The groups of a file; they are looked up once."""
        return self._looked.get(path, lambda: self._look(path))

    def cut(self, file: NamedFile) -> Iterator[Extent]:
        """Ranges of rows: whole groups."""
        groups = self.groups(file.path)
        yield from merged(file, zip(groups.bounds[1:], groups.num_bytes, strict=True))

    def samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The rows; each takes the average of its group."""
        groups = self.groups(extent.source)
        for number, num_bytes in enumerate(groups.num_bytes):
            first, stop = groups.bounds[number], groups.bounds[number + 1]
            average = num_bytes // max(stop - first, 1)
            for row in range(max(first, extent.start), min(stop, extent.stop)):
                yield SampleRef(f"{extent.name}#{row:09d}", extent.source, row, average)

    def row(self, ref: SampleRef) -> dict[str, Any]:
        """The row's values by column."""
        try:
            groups = self.groups(ref.source)
            number = bisect.bisect_right(groups.bounds, ref.index) - 1
            if not 0 <= number < len(groups.num_bytes):
                raise DataError("the file has fewer rows than when it was listed")
            held = self._groups.get((ref.source, number), lambda: self._group(ref.source, groups, number))
            if isinstance(held, DataError):
                raise held
            row = held.table.slice(ref.index - groups.bounds[number], 1)
            if not held.sound:
                row.validate(full=True)
            return row.to_pylist()[0]
        except (DataError, ValueError, pa.ArrowException) as error:
            raise unreadable(ref, f"{self.place(ref)}: {error}") from error

    def place(self, ref: SampleRef) -> str:
        """The row's number, from 0."""
        return f"row {ref.index}"

    def _group(self, path: str, groups: Groups, number: int) -> _Held | DataError:
        try:
            table = self._read(path, groups, number)
        except KDError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise_passing(path, error)
            return DataError(f"it lies in a part of the file that is damaged: {error}")
        if table.num_rows != groups.bounds[number + 1] - groups.bounds[number]:
            return DataError("it lies among other rows than when the file was listed")
        return _Held(table if isinstance(table, pa.Table) else pa.Table.from_batches([table]), _is_sound(table))


def _is_sound(table: pa.Table | pa.RecordBatch) -> bool:
    try:
        table.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def opened(path: str, block_bytes: int = 0) -> pa.NativeFile:
    """A file for Arrow, local or at a URL; see `Inputs.open`."""
    if is_url(path):
        return pa.PythonFile(inputs_of(path).open(path, block_bytes), "r")
    try:
        return pa.OSFile(os.fsencode(path))  # a name may be no UTF-8
    except OSError as error:
        raise_passing(path, error)
        raise DataError(f"'{path}' cannot be read: {error}") from error
