"""The third step of a plan: the distinct samples of a block, in order, as units of about equal size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kdcore.identity import digest_sample_arrays
from kdcore.planning.files import PlanTable, write_table
from kdcore.planning.plan import PlanFile
from kdcore.planning.repeats import times_of
from kdcore.planning.rows import BATCH_ROWS, CUT, ROWS, key_column
from kdcore.store.storage.places import Location, open_place

CutUnit = tuple[int, int, int, str]
"""First row, row after the last, bytes, digest."""


@dataclass(frozen=True)
class CutTask:
    """Block number `block`, whose samples are in `rows`."""

    place: Location
    key: str
    block: int
    rows: PlanFile
    repeats: Sequence[PlanFile]
    unit_bytes: int


@dataclass(frozen=True)
class Cut:
    """The units of a block, rows of `file`."""

    file: PlanFile
    units: tuple[CutUnit, ...]


def cut(task: CutTask) -> Cut:
    """Write a block's distinct samples and cut them into units of at most `unit_bytes`, or of one sample."""
    place = open_place(task.place)
    rows = pa.Table.from_batches(PlanTable(place, task.rows, ROWS).batches(), ROWS)
    times = times_of(place, task.repeats, task.block, rows.num_rows)
    kept = rows.append_column(CUT.field("times"), pa.array(times)).filter(pa.array(times > 0))
    batch = pa.record_batch([_whole(column) for column in kept.columns], schema=CUT)
    parts = [batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS)]
    file = write_table(place, "cut", task.key, CUT, parts)
    sizes, keys, counts = batch.column("num_bytes").to_numpy(), key_column(batch), batch.column("times").to_numpy()
    units = [
        (start, stop, int(sizes[start:stop].sum()), digest_sample_arrays(keys[start:stop], counts[start:stop]))
        for start, stop in fill_units(sizes, task.unit_bytes)
    ]
    return Cut(file, tuple(units))


def fill_units(sizes: np.ndarray, unit_bytes: int) -> list[tuple[int, int]]:
    """(first, last + 1) of consecutive samples of sizes int64 [N]; a unit closes where the next would not fit."""
    ends = np.cumsum(sizes)
    found: list[tuple[int, int]] = []
    start = filled = 0
    while start < len(sizes):
        stop = max(start + 1, int(np.searchsorted(ends, filled + unit_bytes, "right")))
        found.append((start, stop))
        start, filled = stop, int(ends[stop - 1])
    return found


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
