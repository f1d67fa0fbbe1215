"""Splits of Hugging Face datasets as tables: memory-mapped ones by ranges of rows, streamed ones by their shards."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdcore.config.data import HfDatasetData
from kdcore.data.document import Extent, SampleRef, unreadable
from kdcore.data.files import NamedFile
from kdcore.data.formats.base import EXTENT_BYTES, Columns, slice_of
from kdcore.data.formats.recent import Recent
from kdcore.data.formats.table import Groups, TableFormat
from kdcore.data.hf import explained, open_mapped, open_streamed
from kdcore.data.inputs import InputFile
from kdcore.errors import DataError

_GROUP_ROWS = 1000
_STREAM_ROWS = 256
_CURSORS = 4


class MappedRows(TableFormat):
    """The file of a sample is its split; groups are ranges of rows."""

    def __init__(self, config: HfDatasetData, columns: Columns) -> None:
        super().__init__(columns)
        self._config = config

    def listed(self, split: str) -> list[NamedFile]:
        """The split."""
        return [NamedFile(split, InputFile(split, 0, self.groups(split).found[1]))]

    def features(self, split: str) -> Any:
        """Names and types of the columns that are read."""
        return self.groups(split).found[0].features

    def largest(self, split: str, column: str) -> Any:
        """The largest value of a column, None without any."""
        return pc.max(self.groups(split).found[0].data.column(column)).as_py()  # pyright: ignore

    def _look(self, path: str) -> Groups:
        dataset, version = open_mapped(self._config, path)
        with explained(self._config):
            wanted = self._columns.of(f"{self._config.path}, split {path}", dataset.column_names)
            dataset = dataset.select_columns(wanted).with_format("arrow")
        # Rows may be chosen from a longer table.
        average = dataset.data.nbytes / max(dataset.data.num_rows, 1)
        bounds = [*range(0, dataset.num_rows, _GROUP_ROWS), dataset.num_rows]
        sizes = [int(average * (stop - start)) for start, stop in itertools.pairwise(bounds)]
        return Groups(bounds, sizes, (dataset, version))

    def _read(self, path: str, groups: Groups, number: int) -> pa.Table:
        return groups.found[0][groups.bounds[number] : groups.bounds[number + 1]]


class StreamedRows:
    """The file of a sample is a shard of its split, SPLIT/NUMBER; to go back in one, it is read from its beginning."""

    def __init__(self, config: HfDatasetData, columns: Columns) -> None:
        self._config, self._columns = config, columns
        self._opened: Recent[str, tuple[Any, str]] = Recent(2)
        self._cursors: Recent[str, _Cursor] = Recent(_CURSORS)
        self._lock = threading.Lock()

    def listed(self, split: str) -> list[NamedFile]:
        """The shards of a split; how much they hold shows only at their end, unless the dataset's card says it."""
        dataset, version = self._dataset(split)
        told = (dataset.info.splits or {}).get(split)
        num_bytes = told.num_bytes // dataset.num_shards if told is not None and told.num_bytes else EXTENT_BYTES
        return [
            NamedFile(f"{split}-{shard:05d}", InputFile(f"{split}/{shard}", num_bytes, version))
            for shard in range(dataset.num_shards)
        ]

    def features(self, split: str) -> Any:
        """Names and types of the columns that are read; None where only the rows tell."""
        return self._dataset(split)[0].features

    def cut(self, file: NamedFile) -> Iterator[Extent]:
        """The shard."""
        yield slice_of(file, 0, 1, file.file.num_bytes)

    def samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The rows; where the shard is damaged, one more sample that cannot be read."""
        for row in itertools.count():
            name = f"{extent.name}#{row:09d}"
            try:
                table = self._table(extent.source, row)
            except DataError:
                yield SampleRef(name, extent.source, row, 0)
                return
            if table.num_rows == 0:
                return
            yield SampleRef(name, extent.source, row, table.nbytes)

    def row(self, ref: SampleRef) -> dict[str, Any]:
        """The row's values by column."""
        try:
            table = self._table(ref.source, ref.index)
            if table.num_rows == 0:
                raise DataError("the shard has fewer rows than when it was listed")
            table.validate(full=True)
            return table.to_pylist()[0]
        except (DataError, ValueError, pa.ArrowException) as error:
            raise unreadable(ref, f"{self.place(ref)}: {error}") from error

    def place(self, ref: SampleRef) -> str:
        """The row's number in its shard, from 0."""
        return f"row {ref.index} of the shard"

    def _table(self, source: str, row: int) -> pa.Table:
        """One row; none behind the last."""
        with self._lock:
            cursor = self._cursors.get(source, lambda: _Cursor(lambda: self._tables(source)))
            try:
                with explained(self._config):
                    return cursor.row(row)
            except BaseException:
                self._cursors.drop(source)
                raise

    def _tables(self, source: str) -> Iterator[pa.Table]:
        split, shard = source.rsplit("/", 1)
        dataset = self._dataset(split)[0]
        return dataset.shard(dataset.num_shards, int(shard)).with_format("arrow").iter(batch_size=_STREAM_ROWS)

    def _dataset(self, split: str) -> tuple[Any, str]:
        return self._opened.get(split, lambda: self._open(split))

    def _open(self, split: str) -> tuple[Any, str]:
        dataset, version = open_streamed(self._config, split)
        with explained(self._config):
            names = dataset.column_names
            if names is None:  # the first rows tell
                names = list(next(iter(dataset), {}))
            return dataset.select_columns(self._columns.of(f"{self._config.path}, split {split}", names)), version


class _Cursor:
    """Goes through tables in order; the one it is at is held."""

    def __init__(self, start: Callable[[], Iterator[pa.Table]]) -> None:
        self._start = start
        self._begin()

    def row(self, row: int) -> pa.Table:
        """A table of this row alone, or of none behind the last."""
        if row < self._first:
            self._begin()
        while row >= self._first + self._held.num_rows:
            self._first += self._held.num_rows
            following = next(self._tables, None)
            if following is None:
                self._held = self._held.slice(0, 0)
                return self._held
            self._held = following
        return self._held.slice(row - self._first, 1)

    def _begin(self) -> None:
        self._tables = iter(self._start())
        self._first, self._held = 0, pa.table({})
