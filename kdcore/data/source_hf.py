"""Datasets of Hugging Face `datasets`, of texts or of images."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from kdcore.config.data import HfDatasetData, Kind
from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, Sample, SampleRef, unreadable
from kdcore.data.formats.base import Columns
from kdcore.data.formats.hf_rows import MappedRows, StreamedRows
from kdcore.data.images import ImageDecoder
from kdcore.data.inputs import inputs_of
from kdcore.data.rows import columns_of, document_of_row
from kdcore.errors import DataError, UnreadableDocument


class HfDatasetSource(BaseSource):
    """Samples are named by split and row, streamed ones by split, shard and row."""

    def __init__(self, config: HfDatasetData) -> None:
        where = f"data.path {config.path!r}, split '{config.split}'"
        super().__init__(config.heldout_fraction, config.max_samples, where)
        self._config = config
        self.kind: Kind = config.kind
        self._decoder = ImageDecoder(config) if config.kind == "image" else None
        images = Columns({config.image_column: "data.image_column", config.label_column: "data.label_column"})
        columns = columns_of(config) if config.kind == "text" else images
        self._rows = StreamedRows(config, columns) if config.streaming else MappedRows(config, columns)

    @property
    def num_classes(self) -> int | None:
        """Of a label column of classes as many as it declares, of integers one more than the largest; None for text."""
        return self._num_classes if self._decoder is not None else None

    @cached_property
    def _num_classes(self) -> int:
        splits = [self._config.split, *filter(None, [self._config.heldout_split])]
        return max(self._classes_of(split) for split in splits)

    @property
    def num_channels(self) -> int | None:
        """As set: 1 or 3; None for text."""
        return self._config.channels if self._decoder is not None else None

    def read(self, ref: SampleRef) -> Sample:
        """One sample. Raises UnreadableDocument for a row that is no such row, or no whole image."""
        row = self._rows.row(ref)
        try:
            if self._decoder is None:
                return document_of_row(ref.name, row, self._config)
            image = _with_bytes(row[self._config.image_column])
            return self._decoder.sample(ref.name, image, row[self._config.label_column])
        except UnreadableDocument as error:
            raise unreadable(ref, f"{self._rows.place(ref)} {error.message}") from error
        except ValueError as error:
            raise unreadable(ref, f"{self._rows.place(ref)}: {error}") from error

    def stamp(self, extent: Extent) -> str:
        """Of the files of the dataset, as they were when it was opened; "" where they are not known."""
        return extent.version

    def _find(self) -> Iterator[Extent]:
        return self._extents(self._config.split)

    def _find_heldout(self) -> Iterator[Extent] | None:
        split = self._config.heldout_split
        return None if split is None else self._extents(split)

    def _extents(self, split: str) -> Iterator[Extent]:
        return (extent for file in self._rows.listed(split) for extent in self._rows.cut(file))

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        return self._rows.samples(extent)

    def _classes_of(self, split: str) -> int:
        column = self._config.label_column
        label: Any = (self._rows.features(split) or {}).get(column)
        declared = getattr(label, "num_classes", None)
        if declared:
            return declared
        largest = self._rows.largest(split, column) if isinstance(self._rows, MappedRows) else None
        if not isinstance(largest, int):
            raise DataError(
                f"Labels must be classes, or without data.streaming integers; column '{column}' of split '{split}' is "
                f"{label}: set data.label_column, or data.streaming to false."
            )
        return 1 + largest


def _with_bytes(image: Any) -> Any:
    """An image whose bytes lie in a file of their own is read from there."""
    if isinstance(image, dict) and image.get("bytes") is None and isinstance(image.get("path"), str):
        return inputs_of(image["path"]).read(image["path"])
    return image
