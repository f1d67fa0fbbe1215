"""What corpora of files share whose ending says how they are read."""

from collections.abc import Iterator

from kdcore.config.data import ClassifiedTextData, TextData
from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, SampleRef
from kdcore.data.files import find_files
from kdcore.data.formats import Columns, Formats


class RowSource(BaseSource):
    """The ending of a file's name says what it is (see `kdcore.data.formats`); endings may be mixed."""

    def __init__(self, config: TextData | ClassifiedTextData, columns: Columns) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._path, self._heldout = config.path, config.heldout
        self._formats = Formats(columns, config.max_document_bytes)

    def _find(self) -> Iterator[Extent]:
        return self._extents(self._path, "data.path")

    def _find_heldout(self) -> Iterator[Extent] | None:
        return None if self._heldout is None else self._extents(self._heldout, "data.heldout")

    def _extents(self, patterns: str | tuple[str, ...], setting: str) -> Iterator[Extent]:
        for file in find_files(patterns, setting):
            yield from self._formats.of(file.path).cut(file)

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        return self._formats.of(extent.source).samples(extent)
