"""Receipts of finished units: the first of a unit counts, and only while its shard is there."""

import functools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

from kdcore.errors import CorruptShard, StoreError
from kdcore.store.layout import DATA, JOURNAL, check_shard, check_unit
from kdcore.store.part import unpack_part
from kdcore.store.storage.parallel import in_order
from kdcore.store.storage.places import Location, Place, open_place
from kdcore.store.writer import Receipt

__all__ = [
    "Journal",
    "find_receipt",
    "from_json",
    "publish_receipt",
    "read_journal",
    "read_receipts",
    "receipt_from_json",
    "receipt_to_json",
]

Record = TypeVar("Record")

_OF_LABELS = (
    "Set labels.unit_bytes and the data back to what the store was begun with, or set labels.path to a new directory"
)
_NOT_LISTED = frozenset(entry.name for entry in fields(Receipt) if not entry.compare)


class Journal(dict[str, Receipt]):
    """Valid receipts by unit; `notes` says which were dropped, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


def publish_receipt(store: Location, receipt: Receipt) -> Receipt:
    """Publish a receipt unless its unit has a valid one; returns the one that counts, which may be another's.

    First receipt wins, also between two jobs. A receipt whose shard is gone, or whose part of the
    index is damaged or missing, proves nothing and is replaced.
    """
    place = open_place(store)
    name = f"{JOURNAL}/{check_unit(receipt.unit)}.json"
    content = (json.dumps(asdict(receipt), indent=2, sort_keys=True) + "\n").encode()
    if place.put_if_absent(name, content):
        return receipt
    winner = find_receipt(place, receipt.unit, receipt.unit_digest)
    if winner is None:
        place.put(name, content)
        return receipt
    return winner


def find_receipt(store: Location, unit: str, unit_digest: str) -> Receipt | None:
    """The valid receipt of a unit, None without one; StoreError when it is of a unit that was cut differently.

    Costs one failed read where there is none.
    """
    place = open_place(store)
    try:
        found = _load(place, f"{JOURNAL}/{check_unit(unit)}.json")
    except CorruptShard:
        return None
    if found.unit_digest != unit_digest:
        raise _cut_differently(place, unit)
    return found


def read_receipts(store: Location, units: Mapping[str, str] | None = None, remedy: str | None = None) -> Journal:
    """The receipts whose shards are there in full size; the others become `notes`, their units are to be redone.

    `units` (unit id -> unit digest) is the plan: StoreError when a receipt is of a unit that was cut differently, which
    says what to do (`remedy`; None: as of labels).
    """
    place = open_place(store)
    journal = Journal()
    names = sorted(name for name in place.sizes(JOURNAL) if _is_receipt(name))
    there = place.sizes(DATA)
    for found in in_order(lambda name: _try_load(place, name, there), names, place.threads):
        if isinstance(found, CorruptShard):
            journal.notes.append(str(found))
            continue
        if units is not None and units.get(found.unit) != found.unit_digest:
            raise _cut_differently(place, found.unit, remedy)
        journal[found.unit] = found
    return journal


def read_journal(store: Location, units: Mapping[str, str]) -> Sequence[Receipt]:
    """The receipts of all units, in their order; StoreError while one is missing."""
    receipts = read_receipts(store, units)
    missing = [unit for unit in units if unit not in receipts]
    if missing:
        raise StoreError(f"{len(missing)} of {len(units)} units have no valid receipt in {store}: {missing[:5]}")
    return [receipts[unit] for unit in units]


def receipt_from_json(value: Any, where: str) -> Receipt:
    """A manifest's entry of a shard, with the right fields and types; CorruptShard names `where` otherwise."""
    return from_json(Receipt, value, where, without=_NOT_LISTED)


def receipt_to_json(receipt: Receipt) -> dict[str, Any]:
    """A manifest's entry of a shard."""
    return {name: value for name, value in vars(receipt).items() if name not in _NOT_LISTED}


def from_json(kind: type[Record], value: Any, where: str, without: Collection[str] = ()) -> Record:
    """A dataclass of texts and numbers from JSON with exactly its fields; CorruptShard names `where` otherwise.

    The fields in `without` have defaults, and are not in the JSON.
    """
    types = {name: wanted for name, wanted in _types(kind).items() if name not in without}
    if not isinstance(value, dict) or value.keys() != types.keys():
        raise CorruptShard(f"{where} must have exactly the fields {sorted(types)}")
    for name, wanted in types.items():
        if type(value[name]) is not wanted or not _in_range(value[name]):
            raise CorruptShard(f"{where}: field '{name}' is {value[name]!r}")
    return kind(**value)


def _in_range(value: Any) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is not int or 0 <= value < 1 << 63


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return {field.name: field.type for field in fields(kind)}


def _is_receipt(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(f"{JOURNAL}/.")


def _try_load(place: Place, name: str, there: Mapping[str, int]) -> Receipt | CorruptShard:
    try:
        return _load(place, name, there)
    except CorruptShard as error:
        return error


def _load(place: Place, name: str, there: Mapping[str, int] | None = None) -> Receipt:
    """The receipt in a file, its shard present (among `there`, where that is known); CorruptShard otherwise."""
    where = f"receipt {place.where(name)}"
    try:
        value = json.loads(place.read(name))
    except (FileNotFoundError, ValueError) as error:
        raise CorruptShard(f"{where} cannot be read: {error}") from error
    if isinstance(value, dict) and "part" not in value:
        raise CorruptShard(f"{where} has no `part` of the index: an earlier version of kdcore wrote it")
    receipt = from_json(Receipt, value, where)
    if f"{JOURNAL}/{receipt.unit}.json" != name:
        raise CorruptShard(f"{where} is of unit {receipt.unit!r}")
    check_shard(receipt.shard, where)
    size = place.size(receipt.shard) if there is None else there.get(receipt.shard)
    if size != receipt.bytes:
        found = "is missing" if size is None else f"has {size} bytes"
        raise CorruptShard(f"{where} promises {receipt.bytes} bytes in {place.where(receipt.shard)}, which {found}")
    unpack_part(receipt.part, receipt.digest, receipt.rows, where)
    if not receipt.agreed <= receipt.measured <= receipt.labels:
        raise CorruptShard(f"{where} says {receipt.agreed} of {receipt.measured} of {receipt.labels} labels agreed")
    return receipt


def _cut_differently(place: Place, unit: str, remedy: str | None = None) -> StoreError:
    return StoreError(
        f"{unit} of {place} was cut differently: its receipt is of other samples than what is asked for now. "
        f"{_OF_LABELS if remedy is None else remedy}"
    )
