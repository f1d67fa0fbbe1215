"""The samples of a block as columns."""

from array import array
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from kdcore.data.document import SampleRef
from kdcore.identity import KEY_BYTES
from kdcore.planning.files import PlanTable
from kdcore.planning.plan import PlannedSample

BATCH_ROWS = 4096
"""Rows of every record batch but the last, so that a unit's rows are found without reading the others."""

# Names of files may be no UTF-8: `binary`, with Python's escapes undone.
_COLUMNS = [
    pa.field("key", pa.binary(KEY_BYTES), False),
    pa.field("num_bytes", pa.int64(), False),
    pa.field("index", pa.int64(), False),
    pa.field("name", pa.binary(), False),
    pa.field("source", pa.dictionary(pa.int32(), pa.binary()), False),
]
ROWS = pa.schema(_COLUMNS)
"""Every sample of a block that is readable and not empty, in order."""

CUT = pa.schema([*_COLUMNS, pa.field("times", pa.int64(), False)])
"""The first of each distinct sample, with how often it occurs in the corpus."""


class RowsBuilder:
    """Gathers samples as columns; about a hundred bytes a sample."""

    def __init__(self) -> None:
        self._keys, self._targets = bytearray(), array("i")
        self._columns: list[tuple[pa.Array, pa.Array, pa.Array, np.ndarray]] = []
        self._refs: list[SampleRef] = []
        self._sources: dict[str, int] = {}

    def add(self, ref: SampleRef, key: bytes, target: int) -> None:
        """One sample, with its class, -1 for none."""
        self._keys += key
        self._targets.append(target)
        self._refs.append(ref)
        if len(self._refs) == BATCH_ROWS:
            self._pack()

    def keys(self) -> np.ndarray:
        """All keys, uint8 [N, 16]."""
        return np.frombuffer(bytes(self._keys), np.uint8).reshape(-1, KEY_BYTES)

    def targets(self) -> np.ndarray:
        """All classes, int32 [N]."""
        return np.array(self._targets, dtype=np.int32)

    def batches(self) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """The schema and the record batches."""
        if self._refs:
            self._pack()
        return ROWS, self._batches()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        sources = pa.array([os_bytes(source) for source in self._sources], pa.binary())
        keys = memoryview(bytes(self._keys))
        for number, (sizes, indices, names, source) in enumerate(self._columns):
            start = number * BATCH_ROWS * KEY_BYTES
            part = pa.py_buffer(keys[start : start + len(sizes) * KEY_BYTES])
            key = pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(sizes), [None, part])
            column = pa.DictionaryArray.from_arrays(pa.array(source), sources)
            yield pa.record_batch([key, sizes, indices, names, column], schema=ROWS)

    def _pack(self) -> None:
        refs, self._refs = self._refs, []
        numbers = [self._sources.setdefault(ref.source, len(self._sources)) for ref in refs]
        self._columns.append(
            (
                pa.array([ref.num_bytes for ref in refs], pa.int64()),
                pa.array([ref.index for ref in refs], pa.int64()),
                pa.array([os_bytes(ref.name) for ref in refs], pa.binary()),
                np.array(numbers, dtype=np.int32),
            )
        )


def planned_samples(batch: pa.RecordBatch) -> Iterator[PlannedSample]:
    """The samples of a batch of CUT, as who reads them wants them."""
    values = batch.to_pydict()
    columns = (values[name] for name in ("name", "source", "index", "num_bytes", "key", "times"))
    for name, source, index, num_bytes, key, times in zip(*columns, strict=True):
        yield SampleRef(os_text(name), os_text(source), index, num_bytes), key, times


def name_of(table: PlanTable, row: int) -> str:
    """The name of a row of ROWS or CUT."""
    return os_text(table.batch(row // BATCH_ROWS).column("name")[row % BATCH_ROWS].as_py())


def key_column(batch: pa.RecordBatch) -> np.ndarray:
    """The column `key` as uint8 [N, 16], a view."""
    column = batch.column("key")
    data = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    start = column.offset * KEY_BYTES
    return data[start : start + len(column) * KEY_BYTES].reshape(-1, KEY_BYTES)


def os_bytes(text: str) -> bytes:
    """A name as the bytes that the file system has."""
    return text.encode("utf-8", "surrogateescape")


def os_text(data: bytes) -> str:
    """What `os_bytes` was given."""
    return data.decode("utf-8", "surrogateescape")
