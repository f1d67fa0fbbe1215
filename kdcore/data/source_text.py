"""Text files, one document each, and files of rows, one document a row: JSON lines, Parquet, Arrow."""

from kdcore.config.data import Kind, TextData
from kdcore.data.document import WHOLE_FILE, SampleRef, TextDocument, unreadable
from kdcore.data.row_source import RowSource
from kdcore.data.rows import columns_of, document_of_row
from kdcore.errors import UnreadableDocument


class TextSource(RowSource):
    """A plain file is one document, a row is one."""

    kind: Kind = "text"

    def __init__(self, config: TextData) -> None:
        super().__init__(config, columns_of(config))
        self._config = config

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
