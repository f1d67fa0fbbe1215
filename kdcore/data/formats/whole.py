"""Files that are one UTF-8 document each."""

import sys
from collections.abc import Iterator

from kdcore.data.document import WHOLE_FILE, Extent, SampleRef, unreadable
from kdcore.data.files import NamedFile
from kdcore.data.formats.base import check_length, slice_of
from kdcore.data.inputs import inputs_of
from kdcore.errors import DataError


class Whole:
    """One sample a file, line ends as they are."""

    def __init__(self, max_bytes: int = sys.maxsize) -> None:
        self._max_bytes = max_bytes

    def cut(self, file: NamedFile) -> Iterator[Extent]:
        """The file."""
        yield slice_of(file, 0, 1, file.file.num_bytes)

    def samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The file."""
        yield SampleRef(extent.name, extent.source, WHOLE_FILE, extent.num_bytes)

    def row(self, ref: SampleRef) -> str:
        """Its text."""
        check_length(ref, self._max_bytes, "it")
        try:
            return inputs_of(ref.source).read(ref.source).decode("utf-8")
        except (DataError, UnicodeDecodeError) as error:
            raise unreadable(ref, str(error)) from error

    def place(self, ref: SampleRef) -> str:
        """Nothing: the sample is the file."""
        return ""
