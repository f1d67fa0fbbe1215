"""The first step of a plan: read every sample of a block once, for its key."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.data.document import ClassifiedText, SampleRef, TextDocument
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source
from kdcore.data.splits import probe_rank
from kdcore.errors import UnreadableDocument
from kdcore.identity import KEY_BYTES, digest_bytes
from kdcore.planning.corpus import Block, Corpus
from kdcore.planning.files import write_table
from kdcore.planning.least import Least
from kdcore.planning.limit import rank
from kdcore.planning.plan import PlanFile
from kdcore.planning.rows import RowsBuilder
from kdcore.store.layout import PLAN
from kdcore.store.storage.place import Place
from kdcore.store.storage.places import Location, open_place

SKIPPED_LISTED = 100
"""Of the samples that a plan leaves out, so many are named."""

SORTED = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), False),
        pa.field("row", pa.uint32(), False),
        pa.field("target", pa.int32(), False),
    ]
)
"""The keys of a block, sorted; equal ones in the order of their rows. `target` is -1 of a sample without a class."""

Ranked = tuple[str, SampleRef]
"""A sample, after what it is ranked by."""


@dataclass(frozen=True)
class SurveyTask:
    """One block, to be surveyed into `place`: the samples up to rank `limit`, for a probe of `probe_size` samples.

    Ranks from `probe_bound` on are known to be too many, which saves sending them.
    """

    corpus: Corpus
    place: Location
    block: Block
    limit: bytes | None
    probe_size: int
    probe_bound: bytes | None = None

    @property
    def key(self) -> str:
        """Of all that the survey depends on."""
        return digest_bytes(f"{self.block.key} {self.limit and self.limit.hex()} {self.probe_size}".encode())


@dataclass(frozen=True)
class Survey:
    """What a block holds: `rows` and `keys` are its files; `probe` has (rank in hexadecimal, sample) by rank."""

    rows: PlanFile
    keys: PlanFile
    num_samples: int
    skipped: tuple[tuple[str, str], ...]
    num_skipped: int
    probe: tuple[Ranked, ...]

    def below(self, bound: bytes | None) -> "Survey":
        """Without those of the probe that are known to be too many."""
        if bound is None:
            return self
        return replace(self, probe=tuple(item for item in self.probe if item[0] < bound.hex()))


def survey(task: SurveyTask) -> Survey:
    """Survey a block, or take the survey that an earlier job left; then no sample is read.

    Raises UnreadableDocument (on_unreadable="error"). Empty documents are always skipped.
    """
    place = open_place(task.place)
    found = _earlier(place, task.key)
    if found is None:
        found = _read_block(task, place)
        place.put(_note(task.key), _text(found))
    return found.below(task.probe_bound)


def _read_block(task: SurveyTask, place: Place) -> Survey:
    source, rows, probe = task.corpus.open(), RowsBuilder(), Least[SampleRef](task.probe_size)
    skipped: list[tuple[str, str]] = []
    num_skipped = 0
    for ref in _refs(source, task):
        probe.add(probe_rank(ref), ref)
        reason = _add(source, ref, rows, task.corpus.on_unreadable == "error")
        if reason is not None:
            num_skipped += 1
            skipped += [(ref.name, reason)] if num_skipped <= SKIPPED_LISTED else []
    keys, targets = rows.keys(), rows.targets()
    written = write_table(place, "rows", task.key, *rows.batches())
    ranked = tuple((found.hex(), ref) for found, ref in probe.items())
    return Survey(written, _write_keys(place, task.key, keys, targets), len(keys), tuple(skipped), num_skipped, ranked)


def _refs(source: Source, task: SurveyTask) -> Iterator[SampleRef]:
    for extent in task.block.extents:
        for ref in source.refs(extent, task.corpus.split):
            if task.limit is None or rank(ref) <= task.limit:
                yield ref


def _add(source: Source, ref: SampleRef, rows: RowsBuilder, stops: bool) -> str | None:
    """None when the sample counts, else why not."""
    try:
        sample = source.read(ref)
    except UnreadableDocument as error:
        if stops:
            raise
        return error.message
    if isinstance(sample, TextDocument | ClassifiedText) and not sample.text:
        return "empty"
    target = None if isinstance(sample, TextDocument) else sample.target
    rows.add(ref, sample_key(sample), -1 if target is None else target)
    return None


def _write_keys(place: Place, key: str, keys: np.ndarray, targets: np.ndarray) -> PlanFile:
    """keys: uint8 [N, 16]; targets: int32 [N]."""
    order = sort_keys(keys)
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, pa.py_buffer(keys[order])])
    rows = pa.array(order.astype(np.uint32))
    columns = [values, rows, pa.array(targets[order])]
    return write_table(place, "keys", key, SORTED, [pa.record_batch(columns, schema=SORTED)])


def sort_keys(keys: np.ndarray) -> np.ndarray:
    """The rows of keys uint8 [N, 16] sorted as bytes, int64 [N]; equal keys in the order of their rows."""
    words = np.ascontiguousarray(keys).view(">u8").astype(np.uint64)
    return np.lexsort((words[:, 1], words[:, 0]))


def _note(key: str) -> str:
    return f"{PLAN}/survey-{key}.json"


def _earlier(place: Place, key: str) -> Survey | None:
    """A survey that is there with both its files, whole as far as their sizes say."""
    try:
        value = json.loads(place.read(_note(key)))
        found = _survey(value)
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or one that was damaged: made anew
        return None
    return found if all(place.size(file.name) == file.num_bytes for file in (found.rows, found.keys)) else None


def _text(found: Survey) -> bytes:
    probe = [[rank, *listed(ref)] for rank, ref in found.probe]
    files = {"rows": asdict(found.rows), "keys": asdict(found.keys)}
    counts = {"num_samples": found.num_samples, "num_skipped": found.num_skipped}
    return json.dumps({**files, **counts, "skipped": found.skipped, "probe": probe}).encode()


def listed(ref: SampleRef) -> tuple[str, str, int, int]:
    """A reference as JSON; `SampleRef(*listed(ref))` is it again."""
    return ref.name, ref.source, ref.index, ref.num_bytes


def _survey(value: dict[str, Any]) -> Survey:
    return Survey(
        rows=PlanFile(**value["rows"]),
        keys=PlanFile(**value["keys"]),
        num_samples=value["num_samples"],
        skipped=tuple((name, reason) for name, reason in value["skipped"]),
        num_skipped=value["num_skipped"],
        probe=tuple((found, SampleRef(*ref)) for found, *ref in value["probe"]),
    )
