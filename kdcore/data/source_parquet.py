"""Parquet files with encoded images and integer labels."""

from collections.abc import Iterator
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdcore.config.data import ImageParquetData, Kind
from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, ImageSample, SampleRef, unreadable
from kdcore.data.files import NamedFile, find_files
from kdcore.data.formats import Columns
from kdcore.data.formats.parquet import Parquet
from kdcore.data.formats.table import opened
from kdcore.data.images import ImageDecoder
from kdcore.errors import DataError


class ImageParquetSource(BaseSource):
    """The image column holds encoded bytes, or a struct with a field `bytes`; the label column integers."""

    kind: Kind = "image"

    def __init__(self, config: ImageParquetData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._config = config
        self._decoder = ImageDecoder(config)
        needed = {config.image_column: "data.image_column", config.label_column: "data.label_column"}
        self._format = Parquet(Columns(needed))

    @property
    def num_classes(self) -> int:
        """One more than the largest label of all files, held-out ones included."""
        return self._num_classes

    @cached_property
    def _num_classes(self) -> int:
        files = {file.path for file in [*self._files, *(self._heldout_files or [])]}
        return 1 + max(_largest_label(path, self._config.label_column) for path in sorted(files))

    @property
    def num_channels(self) -> int:
        """As set: 1 or 3."""
        return self._config.channels

    def read(self, ref: SampleRef) -> ImageSample:
        """One image. Raises UnreadableDocument for bytes that are no whole image, or a row without a label."""
        row = self._format.row(ref)
        try:
            return self._decoder.sample(ref.name, row[self._config.image_column], row[self._config.label_column])
        except ValueError as error:
            place = f"{self._format.place(ref)}, column '{self._config.image_column}'"
            raise unreadable(ref, f"{place}: {error}") from error

    def _find(self) -> Iterator[Extent]:
        return (extent for file in self._files for extent in self._format.cut(file))

    def _find_heldout(self) -> Iterator[Extent] | None:
        if self._heldout_files is None:
            return None
        return (extent for file in self._heldout_files for extent in self._format.cut(file))

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        return self._format.samples(extent)

    @cached_property
    def _files(self) -> list[NamedFile]:
        return find_files(self._config.path, "data.path")

    @cached_property
    def _heldout_files(self) -> list[NamedFile] | None:
        return None if self._config.heldout is None else find_files(self._config.heldout, "data.heldout")


def _largest_label(path: str, column: str) -> int:
    with opened(path) as source:
        file = pq.ParquetFile(source)
        schema = file.schema_arrow
        found = schema.field(column).type if column in schema.names else "missing"
        if not isinstance(found, pa.DataType) or not pa.types.is_integer(found):
            raise DataError(
                f"Labels must be a column of integers; column '{column}' of '{path}' is {found}: set data.label_column."
            )
        largest = pc.max(file.read(columns=[column]).column(column)).as_py()  # pyright: ignore
    if largest is None:
        raise DataError(f"At least one row must have a label; column '{column}' of '{path}' has none.")
    return int(largest)
