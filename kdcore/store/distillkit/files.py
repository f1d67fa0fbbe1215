"""The rows of DistillKit's Parquet files, cut into their documents."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.store.storage.place import Place

__all__ = ["LABEL_COLUMNS", "Document", "ParquetFile", "parquet_files"]

LABEL_COLUMNS = ("compressed_logprobs", "bytepacked_indices")
_ROWS_AT_ONCE = 8


def parquet_files(place: Place) -> "list[ParquetFile]":
    """The Parquet files of a directory, in the order of the numbers in their names."""
    found = {name: size for name, size in place.sizes("").items() if name.endswith(".parquet") and name[0] != "."}
    if not found:
        raise StoreError(f"{place} has no *.parquet: give the directory that DistillKit's sample_logits wrote")
    ordered = sorted(
        found, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    return [ParquetFile(place, name, found[name]) for name in ordered]


@dataclass(frozen=True)
class Document:
    """One document: where it stands, its tokens, and (when they were asked for) its records, one a label."""

    name: str
    tokens: np.ndarray
    values: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class ParquetFile:
    """One file of a capture."""

    place: Place
    name: str
    size: int

    def documents(self, with_labels: bool) -> Iterator[Document]:
        """The documents of all rows, in order."""
        import pyarrow.parquet as pq

        source = self.place.load(self.name, self.size)
        where = self.place.where(self.name)
        try:
            file = pq.ParquetFile(pa.BufferReader(source.buffer))
            names = set(file.schema_arrow.names)
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{where} cannot be read ({error}): copy it anew") from error
        self._check_columns(names, where)
        wanted = ["input_ids", *(["attention_mask"] if "attention_mask" in names else [])]
        wanted += LABEL_COLUMNS if with_labels else []
        number = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            source.check()
            for row in _rows(batch, where):
                yield from row.documents(f"{self.name}:{number}", where, with_labels)
                number += 1

    @staticmethod
    def _check_columns(names: set[str], where: str) -> None:
        if {"packed_indices", "exact_values", "coeffs"} <= names:
            raise StoreError(f"{where} is of DistillKit's legacy layout, centred logits without their sum: not read")
        missing = {"input_ids", *LABEL_COLUMNS} - names
        if missing:
            raise StoreError(
                f"{where} must have DistillKit's columns; {sorted(missing)} are missing of {sorted(names)}"
            )


@dataclass(frozen=True)
class _Row:
    tokens: np.ndarray
    mask: np.ndarray | None
    values: np.ndarray
    ids: np.ndarray

    def documents(self, name: str, where: str, with_labels: bool) -> Iterator[Document]:
        """Its documents: all of it, or what lies between two changes of its mask; zeros in the mask are padding."""
        count = len(self.tokens)
        if with_labels and not count - 1 <= len(self.values) == len(self.ids) <= count:
            raise StoreError(
                f"{where}: a row of {count} tokens has {count - 1} or {count} labels, '{name}' has "
                f"{len(self.values)} and {len(self.ids)}"
            )
        mask = np.ones(count, np.int64) if self.mask is None else self.mask
        if len(mask) != count:
            raise StoreError(f"{where}: '{name}' has {count} tokens and an attention_mask of {len(mask)}")
        cuts = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), count]
        spans = [(start, stop) for start, stop in itertools.pairwise(cuts) if stop > start and mask[start]]
        for number, (start, stop) in enumerate(spans):
            part = slice(start, stop - 1)
            own = name if len(spans) == 1 else f"{name}.{number}"
            yield Document(own, self.tokens[start:stop], self.values[part], self.ids[part])


def _rows(batch: pa.RecordBatch, where: str) -> Iterator[_Row]:
    columns = {
        name: _parts(batch.column(name), name, where)
        for name in ("input_ids", "attention_mask")
        if name in batch.schema.names
    }
    records = {name: _records(batch.column(name), name, where) for name in LABEL_COLUMNS if name in batch.schema.names}
    none = np.empty((0, 0), np.uint8)
    for row in range(batch.num_rows):
        mask = columns["attention_mask"][row].astype(np.int64) if "attention_mask" in columns else None
        values, ids = (records[name][row] if records else none for name in LABEL_COLUMNS)
        yield _Row(columns["input_ids"][row].astype(np.int64), mask, values, ids)


def _parts(column: pa.Array, name: str, where: str) -> list[np.ndarray]:
    """The numbers of each list."""
    values, lengths = _flat(column, name, where)
    if values.null_count or not pa.types.is_integer(values.type):
        raise StoreError(f"{where}: column '{name}' must be lists of integers without nulls, it is {column.type}")
    return np.split(values.to_numpy(zero_copy_only=False), np.cumsum(lengths)[:-1])


def _records(column: pa.Array, name: str, where: str) -> list[np.ndarray]:
    """uint8 [labels, bytes] of each list of lists of bytes."""
    lines, lengths = _flat(column, name, where)
    values, widths = _flat(lines, name, where)
    if len(widths) and widths.min() != widths.max():
        raise StoreError(
            f"{where}: all records of '{name}' must be equally long, there are {widths.min()} to {widths.max()} bytes"
        )
    if values.null_count or not pa.types.is_integer(values.type):
        raise StoreError(f"{where}: column '{name}' must be lists of lists of bytes, it is {column.type}")
    flat = values.to_numpy(zero_copy_only=False)
    if flat.size and not 0 <= flat.min() <= flat.max() <= 255:
        raise StoreError(f"{where}: column '{name}' must hold bytes, it has {flat.min()} to {flat.max()}")
    width = int(widths[0]) if len(widths) else 0
    return np.split(flat.astype(np.uint8).reshape(len(widths), width), np.cumsum(lengths)[:-1])


def _flat(column: pa.Array, name: str, where: str) -> tuple[pa.Array, np.ndarray]:
    """The values of all lists, one after the other, and how many each has."""
    if column.null_count or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise StoreError(f"{where}: column '{name}' must be lists without nulls, it is {column.type}")
    return column.flatten(), np.diff(column.offsets.to_numpy())
