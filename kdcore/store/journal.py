"""Receipts of finished units, and the manifest that ends a store. Whatever is not in a manifest does not exist."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kdcore.errors import CorruptShard, StoreError
from kdcore.store.layout import JOURNAL, check_unit, publish_file, shard_file
from kdcore.store.writer import Receipt

__all__ = ["Journal", "publish_receipt", "read_journal", "read_receipts", "receipt_from_json"]


class Journal(dict[str, Receipt]):
    """Valid receipts by unit; `notes` says which were dropped, and why."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []


def publish_receipt(store_path: str | Path, receipt: Receipt) -> Receipt:
    """Publish a receipt unless its unit has a valid one; returns the one that counts, which may be another's.

    First receipt wins, also between two jobs. A receipt whose shard is gone proves nothing and is replaced.
    """
    store = Path(store_path)
    path = _receipt_file(store, receipt.unit)
    content = (json.dumps(asdict(receipt), indent=2, sort_keys=True) + "\n").encode()
    if publish_file(path, content):
        return receipt
    try:
        winner = _load(store, path)
    except CorruptShard:
        publish_file(path, content, replace=True)
        return receipt
    if winner.unit_digest != receipt.unit_digest:
        raise _cut_differently(store, receipt.unit)
    return winner


def read_receipts(store_path: str | Path, units: Mapping[str, str] | None = None) -> Journal:
    """The receipts whose shards are there in full size; the others become `notes`, their units are to be redone.

    `units` (unit id -> unit digest) is the plan: StoreError when a receipt is of a unit that was cut differently.
    """
    store = Path(store_path)
    journal = Journal()
    for path in sorted((store / JOURNAL).glob("[!.]*.json")):
        try:
            receipt = _load(store, path)
        except CorruptShard as error:
            journal.notes.append(str(error))
            continue
        if units is not None and units.get(receipt.unit) != receipt.unit_digest:
            raise _cut_differently(store, receipt.unit)
        journal[receipt.unit] = receipt
    return journal


def read_journal(store_path: str | Path, units: Mapping[str, str]) -> Sequence[Receipt]:
    """The receipts of all units, in their order; StoreError while one is missing."""
    receipts = read_receipts(store_path, units)
    missing = [unit for unit in units if unit not in receipts]
    if missing:
        raise StoreError(f"{len(missing)} of {len(units)} units have no valid receipt in {store_path}: {missing[:5]}")
    return [receipts[unit] for unit in units]


def receipt_from_json(value: Any, where: str) -> Receipt:
    """A receipt of JSON with the right fields and types; CorruptShard names `where` otherwise."""
    types = {field.name: field.type for field in fields(Receipt)}
    if not isinstance(value, dict) or set(value) != set(types):
        raise CorruptShard(f"{where} must have exactly the fields {sorted(types)}")
    for name, kind in types.items():
        if type(value[name]) is not kind or (kind is int and value[name] < 0):
            raise CorruptShard(f"{where}: field '{name}' is {value[name]!r}")
    return Receipt(**value)


def _receipt_file(store: Path, unit: str) -> Path:
    return store / JOURNAL / f"{check_unit(unit)}.json"


def _load(store: Path, path: Path) -> Receipt:
    """The receipt in a file, its shard present; CorruptShard otherwise."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CorruptShard(f"receipt {path} cannot be read: {error}") from error
    receipt = receipt_from_json(value, f"receipt {path}")
    if receipt.unit != path.stem:
        raise CorruptShard(f"receipt {path} is of unit {receipt.unit!r}")
    try:
        shard = shard_file(store, receipt.shard)
    except CorruptShard as error:
        raise CorruptShard(f"receipt {path}: {error}") from error
    size = shard.stat().st_size if shard.is_file() else -1
    if size != receipt.bytes:
        found = "is missing" if size < 0 else f"has {size} bytes"
        raise CorruptShard(f"receipt {path} promises {receipt.bytes} bytes in {shard}, which {found}")
    return receipt


def _cut_differently(store: Path, unit: str) -> StoreError:
    return StoreError(
        f"{unit} of {store} was cut differently: its receipt is of other samples than the plan's. Set "
        f"labels.unit_bytes and the data back to what the store was begun with, or set labels.path to a new directory"
    )
