"""What every file format gives: slices of a file, the samples of a slice, one row."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kdcore.data.document import Extent, SampleRef, unreadable
from kdcore.data.files import NamedFile
from kdcore.errors import DataError

EXTENT_BYTES = 64 << 20
"""About what one slice of a file holds: it is read in one go, and the samples of a unit should lie in one."""

PIECE_BYTES = 1 << 20
"""What is not kept of a file is gone through in such pieces."""


class Format(Protocol):
    """Files of one kind. Rows are fast in order and possible in any; one thread at a time reads them."""

    def cut(self, file: NamedFile) -> Iterator[Extent]:
        """A file in slices; looks at no more than its metadata. Raises DataError for a file that is no such."""
        ...

    def samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The samples of a slice, in order; the same however the file is cut."""
        ...

    def row(self, ref: SampleRef) -> Any:
        """The row, an object with keys; the text of a whole file. Raises UnreadableDocument."""
        ...

    def place(self, ref: SampleRef) -> str:
        """Which row or line of its file a sample is, for a message; "" for a whole file."""
        ...


@dataclass(frozen=True)
class Columns:
    """The columns that are read of a table: those that must be there, with the setting that names each, and others."""

    required: Mapping[str, str]
    optional: tuple[str, ...] = ()

    def of(self, path: str, names: Sequence[str]) -> list[str]:
        """Those of a table with these columns. Raises DataError, naming the columns there are and what to set."""
        missing = [column for column in self.required if column not in names]
        if missing:
            settings = " and ".join(dict.fromkeys(self.required[column] for column in missing))
            raise DataError(f"'{path}' has no column {missing}, only {list(names)}: set {settings}.")
        return [name for name in names if name in self.required or name in self.optional]


def check_length(ref: SampleRef, max_bytes: int, place: str) -> None:
    """Raises UnreadableDocument for a sample of more than `max_bytes`, before it is read."""
    if ref.num_bytes > max_bytes:
        raise unreadable(ref, f"{place} is longer than data.max_document_bytes, {max_bytes:,}; cut it or raise that")


def merged(file: NamedFile, pieces: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """Extents of about EXTENT_BYTES from pieces that are not cut any further: (where each stops, its bytes)."""
    start = stop = size = 0
    for stop, num_bytes in pieces:
        size += num_bytes
        if size >= EXTENT_BYTES:
            yield slice_of(file, start, stop, size)
            start, size = stop, 0
    if stop > start:
        yield slice_of(file, start, stop, size)


def slice_of(file: NamedFile, start: int, stop: int, num_bytes: int) -> Extent:
    """An extent of a file as it was listed."""
    return Extent(file.name, file.path, start, stop, num_bytes, version=file.file.version)
