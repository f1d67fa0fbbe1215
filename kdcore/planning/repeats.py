"""The second step of a plan: of the samples that share a key the first counts, as often as there are.

A label belongs to the content of a sample, so that identical ones of several classes cannot be told apart: they are
counted here.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kdcore.identity import digest_sample_arrays, part_start
from kdcore.planning.files import PlanTable, write_table
from kdcore.planning.plan import PlanFile
from kdcore.planning.rows import key_column
from kdcore.planning.survey import SORTED, sort_keys
from kdcore.store.storage.places import Location, Place, open_place

REPEATS = pa.schema([pa.field(name, pa.int64(), False) for name in ("block", "row", "times")])
"""The samples that do not stand for themselves alone, by block and row; `times` is 0 for all but the first of each."""


@dataclass(frozen=True)
class RepeatsTask:
    """Part `part` of `parts` of the keys of all blocks; `keys` are their files, in order."""

    place: Location
    key: str
    keys: Sequence[PlanFile]
    part: int
    parts: int


@dataclass(frozen=True)
class Conflict:
    """Two identical samples, each by block and row, and their classes (-1: none)."""

    places: tuple[tuple[int, int], tuple[int, int]]
    targets: tuple[int, int]


@dataclass(frozen=True)
class Repeats:
    """What differs from "once" in a part, how many distinct samples it has, and their digest.

    `num_conflicts` of these have several classes, such as those of `conflict`.
    """

    file: PlanFile
    num_keys: int
    digest: str
    num_conflicts: int = 0
    conflict: Conflict | None = None


def find_repeats(task: RepeatsTask) -> Repeats:
    """Compare the keys of one part of all blocks; holds about 70 bytes for each of its samples."""
    place = open_place(task.place)
    keys, blocks, rows, targets = _gather(task, place)
    order = sort_keys(keys)  # stable, and gathered in the order of the corpus
    keys, blocks, rows, targets = keys[order], blocks[order], rows[order], targets[order]
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    starts = np.flatnonzero(begins)
    times = np.diff(starts, append=len(keys))
    digest = digest_sample_arrays(keys[starts], times)
    whole = np.zeros(len(keys), dtype=np.int64)
    whole[starts] = times
    told = np.flatnonzero(whole != 1)
    found = np.stack([blocks[told], rows[told], whole[told]], axis=1)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    columns = [pa.array(np.ascontiguousarray(found[:, number])) for number in range(3)]
    file = write_table(place, "repeats", task.key, REPEATS, [pa.record_batch(columns, schema=REPEATS)])
    # Any that has another class than the first of its kind.
    others = np.flatnonzero(targets != np.repeat(targets[starts], times))
    firsts = starts[np.searchsorted(starts, others, "right") - 1]
    conflict = None
    if len(others):
        pair = int(firsts[0]), int(others[0])
        first, other = ((int(blocks[at]), int(rows[at])) for at in pair)
        conflict = Conflict((first, other), (int(targets[pair[0]]), int(targets[pair[1]])))
    return Repeats(file, len(starts), digest, len(np.unique(firsts)), conflict)


def times_of(place: Place, files: Sequence[PlanFile], block: int, num_rows: int) -> np.ndarray:
    """How often each sample of a block counts, int64 [num_rows]; 0 for one that an earlier one stands for."""
    times = np.ones(num_rows, dtype=np.int64)
    for file in files:
        batch = PlanTable(place, file, REPEATS).batch(0)
        blocks, rows, values = (batch.column(name).to_numpy() for name in REPEATS.names)
        mine = slice(*np.searchsorted(blocks, [block, block + 1]))
        times[rows[mine]] = values[mine]
    return times


def _gather(task: RepeatsTask, place: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Keys uint8 [N, 16] of the part, with their blocks and rows, uint32 [N], and classes int32 [N]."""
    keys, blocks, rows = [np.empty((0, 16), np.uint8)], [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    targets = [np.empty(0, np.int32)]
    bounds = [part_start(number, task.parts) for number in (task.part, task.part + 1)]
    for number, file in enumerate(task.keys):
        batch = PlanTable(place, file, SORTED).batch(0)
        sorted_keys = key_column(batch)
        start, stop = (_position(sorted_keys, bound) for bound in bounds)
        keys.append(sorted_keys[start:stop].copy())
        rows.append(batch.column("row").to_numpy()[start:stop].copy())
        targets.append(batch.column("target").to_numpy()[start:stop].copy())
        blocks.append(np.full(stop - start, number, np.uint32))
    return np.concatenate(keys), np.concatenate(blocks), np.concatenate(rows), np.concatenate(targets)


def _position(keys: np.ndarray, bound: bytes) -> int:
    return bisect.bisect_left(range(len(keys)), bound, key=lambda row: keys[row].tobytes())
