"""Parquet: row groups, through ranged reads."""

import itertools

import pyarrow as pa
import pyarrow.parquet as pq

from kdcore.config.urls import is_url
from kdcore.data.formats.table import Groups, TableFormat, opened
from kdcore.data.inputs import raise_passing
from kdcore.errors import DataError, KDError


class Parquet(TableFormat):
    """Files of Parquet; the pages of other columns are not read."""

    def _look(self, path: str) -> Groups:
        try:
            with opened(path) as source:
                file = pq.ParquetFile(source)
                metadata, names = file.metadata, file.schema_arrow.names
        except KDError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise_passing(path, error)
            raise DataError(f"data.path must match Parquet files; '{path}' is not one: {error}") from error
        wanted = self._columns.of(path, names)
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        leaves = _leaves(groups[0], wanted) if groups else []
        sizes = [sum(group.column(leaf).total_uncompressed_size for leaf in leaves) for group in groups]
        bounds = list(itertools.accumulate((group.num_rows for group in groups), initial=0))
        return Groups(bounds, sizes, (metadata, wanted))

    def _read(self, path: str, groups: Groups, number: int) -> pa.Table:
        metadata, wanted = groups.found
        with opened(path) as source:
            file = pq.ParquetFile(source, metadata=metadata, pre_buffer=is_url(path))
            return file.read_row_group(number, columns=wanted, use_threads=False)


def _leaves(group: pq.RowGroupMetaData, wanted: list[str]) -> list[int]:
    """The columns below those of the table: a struct has several."""
    paths = ((leaf, group.column(leaf).path_in_schema) for leaf in range(group.num_columns))
    return [leaf for leaf, path in paths if any(path == name or path.startswith(f"{name}.") for name in wanted)]
