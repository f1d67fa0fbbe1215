"""Parquet files with encoded images and integer labels."""

import bisect
import itertools
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kdcore.config.data import ImageParquetData
from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, ImageSample, Kind, SampleRef
from kdcore.data.files import EXTENT_BYTES, find_files
from kdcore.data.images import ImageDecoder
from kdcore.data.source_text import unreadable
from kdcore.errors import DataError


class ImageParquetSource(BaseSource):
    """The image column holds encoded bytes, or a struct with a field `bytes`; the label column integers."""

    kind: Kind = "image"

    def __init__(self, config: ImageParquetData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, f"data.path {config.path!r}")
        self._config = config
        self._decoder = ImageDecoder(config)

    @property
    def num_classes(self) -> int:
        """One more than the largest label of all files, held-out ones included."""
        return self._num_classes

    @cached_property
    def _num_classes(self) -> int:
        files = list(self._files.values()) + list((self._heldout_files or {}).values())
        return 1 + max(_largest_label(path, self._config.label_column) for path in files)

    @property
    def num_channels(self) -> int:
        """As set: 1 or 3."""
        return self._config.channels

    def read(self, ref: SampleRef) -> ImageSample:
        """One image. Raises UnreadableDocument for bytes that are no whole image, or a row without a label."""
        column = self._config.image_column
        try:
            image, target = _row(ref.source, ref.index, column, self._config.label_column)
            data = image["bytes"] if isinstance(image, dict) else image
            if not isinstance(data, bytes) or not isinstance(target, int) or target < 0:
                raise ValueError(f"needs bytes and a label of at least 0, has {type(data).__name__} and {target!r}")
            return ImageSample(ref.name, self._decoder.decode(data), target)
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise unreadable(ref, f"row {ref.index}, column '{column}': {error}") from error

    def _find(self) -> Iterator[Extent]:
        return (extent for name, path in self._files.items() for extent in self._row_groups(name, path))

    def _find_heldout(self) -> Iterator[Extent] | None:
        if self._heldout_files is None:
            return None
        return (extent for name, path in self._heldout_files.items() for extent in self._row_groups(name, path))

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        average = extent.num_bytes // max(extent.stop - extent.start, 1)
        for row in range(extent.start, extent.stop):
            yield SampleRef(f"{extent.name}#{row:09d}", extent.source, row, average)

    def _row_groups(self, name: str, path: str) -> Iterator[Extent]:
        metadata = _open(path, self._config.image_column, self._config.label_column).metadata
        start = stop = size = 0
        for group in (metadata.row_group(number) for number in range(metadata.num_row_groups)):
            stop, size = stop + group.num_rows, size + group.total_byte_size
            if size >= EXTENT_BYTES:
                yield Extent(name, path, start, stop, size)
                start, size = stop, 0
        if stop > start:
            yield Extent(name, path, start, stop, size)

    @cached_property
    def _files(self) -> dict[str, str]:
        return find_files(self._config.path, "data.path")

    @cached_property
    def _heldout_files(self) -> dict[str, str] | None:
        return None if self._config.heldout is None else find_files(self._config.heldout, "data.heldout")


def _open(path: str, image_column: str, label_column: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"data.path must match Parquet files; '{path}' is not one: {error}") from error
    missing = {image_column, label_column} - set(file.schema_arrow.names)
    if missing:
        raise DataError(
            f"'{path}' has no column {sorted(missing)}, only {file.schema_arrow.names}: "
            "set data.image_column and data.label_column."
        )
    return file


def _largest_label(path: str, column: str) -> int:
    schema = pq.read_schema(path)
    found = schema.field(column).type if column in schema.names else "missing"
    if not isinstance(found, pa.DataType) or not pa.types.is_integer(found):
        raise DataError(
            f"Labels must be a column of integers; column '{column}' of '{path}' is {found}: set data.label_column."
        )
    largest = pc.max(pq.read_table(path, columns=[column]).column(column)).as_py()  # pyright: ignore
    if largest is None:
        raise DataError(f"At least one row must have a label; column '{column}' of '{path}' has none.")
    return int(largest)


def _row(path: str, row: int, image_column: str, label_column: str) -> tuple[Any, Any]:
    bounds = _group_bounds(path)
    group = bisect.bisect_right(bounds, row) - 1
    if not 0 <= group < len(bounds) - 1:
        raise IndexError("the file has fewer rows than when it was listed")
    table = _group(path, group, image_column, label_column)
    at = row - bounds[group]
    return table.column(image_column)[at].as_py(), table.column(label_column)[at].as_py()


@lru_cache(maxsize=256)
def _group_bounds(path: str) -> list[int]:
    """The first row of every row group, and the number of rows."""
    metadata = pq.read_metadata(path)
    sizes = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    return list(itertools.accumulate(sizes, initial=0))


@lru_cache(maxsize=2)
def _group(path: str, group: int, image_column: str, label_column: str) -> pa.Table:
    # Samples are read in order, so the group that served the last one nearly always serves the next.
    return pq.ParquetFile(path).read_row_group(group, columns=[image_column, label_column])
