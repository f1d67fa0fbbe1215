"""Plain columns for other trainers: token ids, and the most probable classes of each label, as Parquet."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from kdcore.errors import StoreError
from kdcore.labels import SpanCodec
from kdcore.store.distillkit.columns import exact_config
from kdcore.store.export.ranked import Ranked, join_ranked, ranked
from kdcore.store.export.tables import ExportSettings, Row, layout_of
from kdcore.store.layout import MANIFEST
from kdcore.store.reader import LabelStore
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import open_place
from kdcore.store.writer import HashingSink

__all__ = ["ExportReport", "export_store"]

_RECORD = "export.json"
_PIECE_ELEMENTS = 1 << 24
"""Decoded values in memory at once."""
_GROUP_BYTES = 64 << 20


@dataclass
class ExportReport:
    """What was written. `mass` is the mean probability that the written entries have together."""

    rows: int = 0
    labels: int = 0
    files: list[str] = field(default_factory=list)
    skipped: int = 0
    total_mass: float = 0.0

    @property
    def mass(self) -> float:
        """Mean over the labels written now."""
        return self.total_mass / self.labels if self.labels else float("nan")


def export_store(
    store: LabelStore,
    out: str,
    settings: ExportSettings,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write one file (`out` ends in .parquet) or a directory of files data_0.parquet, data_1.parquet, ...

    Rows stream through memory. A file appears when it is whole; in a directory, a killed export continues with the
    files that are missing, and one of another store or other settings is refused. Raises StoreError for what cannot be
    exported (features; distillkit from a codec without a fixed number of entries), or when the file is there already.
    """
    _check_codec(store, settings)
    single = out.endswith(".parquet")
    folder, slash, name = out.rpartition("/")
    place = open_place((folder or slash or ".") if single else out)
    place.prepare()
    if single:
        if place.size(name) is not None:
            raise StoreError(f"{place.where(name)} is there already: remove it, or give another path")
        parts = [(name, range(store.num_rows))]
    else:
        starts = range(0, store.num_rows, settings.rows)
        parts = [(f"data_{n}.parquet", range(a, min(a + settings.rows, store.num_rows))) for n, a in enumerate(starts)]
        _begin(place, store, settings, len(parts))
    return _write_parts(place, store, settings, parts, progress)


def _check_codec(store: LabelStore, settings: ExportSettings) -> None:
    if store.num_classes == 0 and not (isinstance(store.codec, SpanCodec) and settings.format == "plain"):
        raise StoreError(
            f"{store.path} holds labels of codec '{store.codec.name}', which have no most probable classes: nothing to "
            "export"
        )
    if settings.format == "plain":
        return
    if store.masked:
        raise StoreError(
            f"DistillKit's columns have a label for every token, {store.path} only for those of the mask "
            f"'{store.identity['mask']}': export --format plain, whose label_positions say which"
        )
    spec = store.codec.spec()
    room = {"topk": spec.get("k", 0), "dense": store.num_classes}.get(spec["type"], 0)
    if store.kind != "text" or settings.top > room:
        raise StoreError(
            f"DistillKit's columns hold the same number of entries for every token, {settings.top} are asked for, but "
            f"{store.path} is a store of kind {store.kind} and codec {spec['type']} with {room or 'any number of'} "
            f"entries a label: lower --top, or export --format plain"
        )


def _begin(place: Place, store: LabelStore, settings: ExportSettings, parts: int) -> None:
    """Say in the directory whose export it is; StoreError when it holds another's, or anything else."""
    record = {
        "manifest": store.manifest.to_json()["digest"],
        "codec": store.manifest.codec,
        "settings": vars(settings),
        "files": parts,
    }
    content = json.dumps(record, indent=1, sort_keys=True).encode()
    # Listed first: what another job of the same export adds from here on has its record beside it.
    there = [name for name in place.entries() if not name.startswith(".") and name != _RECORD]
    begun = place.size(_RECORD) is not None
    if MANIFEST in there or (there and not begun):
        raise StoreError(
            f"{place} is not an export (it has no {_RECORD}) and not empty (it has {there[:5]}): give another path"
        )
    if not place.put_if_absent(_RECORD, content) and json.loads(place.read(_RECORD)) != record:
        raise StoreError(
            f"{place} holds the export of another store, or with other settings (see {_RECORD}): give another path"
        )
    if settings.format == "distillkit":
        place.put("compression_config.yaml", exact_config(store.num_classes, settings.top))


def _write_parts(
    place: Place,
    store: LabelStore,
    settings: ExportSettings,
    parts: Sequence[tuple[str, range]],
    progress: Callable[[int, int], None] | None,
) -> ExportReport:
    there, report = place.sizes(""), ExportReport()
    labels = np.cumsum(np.concatenate([[0], store.num_labels_per_row()]))
    for name, rows in parts:
        if name in there:
            report.skipped += 1
        else:
            _write_file(place, name, store, rows, settings, report)
            report.files.append(name)
        if progress is not None:
            progress(int(labels[rows.stop]), int(labels[-1]))
    return report


def _write_file(
    place: Place, name: str, store: LabelStore, rows: range, settings: ExportSettings, report: ExportReport
) -> None:
    import pyarrow.parquet as pq

    schema, table = layout_of(store, settings)
    place.delete(f".{name}.partial")  # of a killed export
    with place.writer(name) as file, pq.ParquetWriter(pa.PythonFile(HashingSink(file), mode="w"), schema) as writer:
        for group in _groups(store, rows, settings.top):
            writer.write_table(table(store, group, settings))
            for row in group:
                report.rows += 1
                report.labels += len(row.entries.ids)
                report.total_mass += float(row.entries.mass().double().sum())


def _groups(store: LabelStore, rows: range, top: int) -> Iterator[list[Row]]:
    """Rows with their entries, as many as make a row group."""
    pending: list[Row] = []
    size = 0
    counts = store.num_labels_per_row()
    for number in rows:
        entries = _entries(store, number, int(counts[number]), top)
        pending.append(Row(number, entries))
        size += entries.ids.numel() * 8
        if size >= _GROUP_BYTES:
            yield pending
            pending, size = [], 0
    if pending:
        yield pending


def _entries(store: LabelStore, row: int, total: int, top: int) -> Ranked:
    """The entries of a row, decoded a piece at a time."""
    if store.num_classes == 0:  # spans, which name none
        nothing = torch.zeros(total, 0)
        return Ranked(nothing.long(), nothing, nothing.bool())
    step = max(1, _PIECE_ELEMENTS // store.num_classes)
    starts = range(0, max(1, total), step)
    return join_ranked([ranked(store.labels(row, start, min(start + step, total)), top) for start in starts])
