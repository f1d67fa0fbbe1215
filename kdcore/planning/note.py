"""The note by which replicas and later jobs find a plan: one for each setting of the data."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.config import Recipe
from kdcore.data.document import SampleRef
from kdcore.errors import KDError, StoreError
from kdcore.identity import compare_identity, digest_bytes
from kdcore.planning.corpus import Corpus
from kdcore.planning.files import PlanTable, write_table
from kdcore.planning.plan import Input, Plan, PlanFile, PlanRows, WorkUnit
from kdcore.planning.survey import listed
from kdcore.store.beginning import read_identity
from kdcore.store.layout import IDENTITY, PLAN
from kdcore.store.storage.places import Location, Place, open_place

_UNITS = pa.schema(
    [
        pa.field("file", pa.int32(), False),
        *(pa.field(name, pa.int64(), False) for name in ("start", "stop", "num_bytes")),
        pa.field("digest", pa.string(), False),
        pa.field("id", pa.string(), False),
    ]
)


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for: the corpus, about the bytes of a unit, and how many samples its probe may take."""

    corpus: Corpus
    unit_bytes: int
    probe_size: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Asked":
        """What labelling a recipe's training split needs."""
        return cls(Corpus.of(recipe.data), recipe.labels.unit_bytes, recipe.labels.probe_labels)

    @property
    def note(self) -> str:
        """The name of the note."""
        key = digest_bytes(f"{self.corpus.fingerprint} {self.unit_bytes} {self.probe_size}".encode())
        return f"{PLAN}/input-{key}.json"


def find_input(location: Location, asked: Asked, key: str | None = None) -> Input | None:
    """What was noted of the input, None when nothing was; with `key`, of files that were others."""
    value = _read(open_place(location), asked, key)
    return None if value is None else _input(value["input"])


def planned_input(location: Location, asked: Asked) -> Input:
    """What was noted of the input by the job that planned it; StoreError when nothing was."""
    found = find_input(location, asked)
    if found is None:
        raise StoreError(
            f"{open_place(location).where(asked.note)} must be there before a replica starts: the job that plans the "
            "work writes it. Was the folder removed, or is the store's place not the same on every node?"
        )
    return found


def read_plan(place: Place, asked: Asked, key: str) -> Plan | None:
    """The plan that was noted of the same files, None without one or when one of its files is gone."""
    value = _read(place, asked, key)
    if value is None:
        return None
    files, table = [PlanFile(**item) for item in value["files"]], PlanFile(**value["units"])
    sizes = place.sizes(PLAN)
    if any(sizes.get(file.name) != file.num_bytes for file in (*files, table)):
        return None
    units: list[WorkUnit] = []
    for batch in PlanTable(place, table, _UNITS).batches():
        columns = (batch.column(name).to_pylist() for name in ("id", "file", "start", "stop", "num_bytes", "digest"))
        for name, file, start, stop, num_bytes, digest in zip(*columns, strict=True):
            units.append(WorkUnit(name, PlanRows(files[file], start, stop), num_bytes, digest))
    return Plan(_input(value["input"]), tuple(units))


def write_plan(place: Place, asked: Asked, key: str, plan: Plan) -> None:
    """Note a plan of the files that `key` stands for. IdentityMismatch in a store that was begun with another input."""
    # Before the note: the job that began the store may still need its own.
    if place.size(IDENTITY) is not None:
        begun = {"input": read_identity(place).get("input")}
        compare_identity(begun, {"input": plan.input.digest}, what=f"the label store {place}")
    files = {unit.rows.file: None for unit in plan.units}
    numbers = {file: number for number, file in enumerate(files)}
    rows = [(numbers[unit.rows.file], unit.rows.start, unit.rows.stop, unit.num_bytes) for unit in plan.units]
    columns = [pa.array(column) for column in np.array(rows, dtype=np.int64).T.copy()]
    columns[0] = columns[0].cast(pa.int32())
    columns += [pa.array([unit.digest for unit in plan.units]), pa.array([unit.id for unit in plan.units])]
    table = write_table(place, "units", key, _UNITS, [pa.record_batch(columns, schema=_UNITS)])
    value = {
        "key": key,
        "input": {**vars(plan.input), "probe": [listed(ref) for ref in plan.input.probe]},
        "files": [asdict(file) for file in files],
        "units": asdict(table),
    }
    place.put(asked.note, json.dumps(value).encode())


def _read(place: Place, asked: Asked, key: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(place.read(asked.note))
        _input(value["input"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, KDError):
            raise
        return None  # none, or one that was damaged: the work is planned anew
    return value if key is None or value.get("key") == key else None


def _input(value: dict[str, Any]) -> Input:
    return Input(
        digest=value["digest"],
        num_samples=value["num_samples"],
        num_keys=value["num_keys"],
        skipped=tuple((name, reason) for name, reason in value["skipped"]),
        num_skipped=value["num_skipped"],
        probe=tuple(SampleRef(*ref) for ref in value["probe"]),
        num_conflicts=value["num_conflicts"],
    )
