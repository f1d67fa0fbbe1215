"""Text files, one document each, and files of rows, one document a row: JSON lines, Parquet, Arrow."""

from collections.abc import Iterator

from kdcore.config.data import TextData
from kdcore.data.base import BaseSource
from kdcore.data.document import WHOLE_FILE, Extent, Kind, SampleRef, TextDocument, unreadable
from kdcore.data.files import find_files
from kdcore.data.formats import Formats
from kdcore.data.rows import columns_of, document_of_row
from kdcore.errors import UnreadableDocument


class TextSource(BaseSource):
    """The ending of a file's name says what it is (see `kdcore.data.formats`); endings may be mixed."""

    kind: Kind = "text"

    def __init__(self, config: TextData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._config = config
        self._formats = Formats(columns_of(config), config.max_document_bytes)

    def read(self, ref: SampleRef) -> TextDocument:
        """The document. Raises UnreadableDocument for bytes that are not UTF-8, or a row that is no such row."""
        if ref.index == WHOLE_FILE and self._config.shape != "field":
            raise unreadable(ref, f"data.{self._config.shape} asks for rows (.jsonl, .parquet), this is plain text")
        format = self._formats.of(ref.source)
        row = format.row(ref)
        if ref.index == WHOLE_FILE:
            return TextDocument(ref.name, row)
        try:
            return document_of_row(ref.name, row, self._config)
        except UnreadableDocument as error:
            raise unreadable(ref, f"{format.place(ref)} {error.message}") from error

    def _find(self) -> Iterator[Extent]:
        return self._extents(self._config.path, "data.path")

    def _find_heldout(self) -> Iterator[Extent] | None:
        heldout = self._config.heldout
        return None if heldout is None else self._extents(heldout, "data.heldout")

    def _extents(self, patterns: str | tuple[str, ...], setting: str) -> Iterator[Extent]:
        for file in find_files(patterns, setting):
            yield from self._formats.of(file.path).cut(file)

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        return self._formats.of(extent.source).samples(extent)
