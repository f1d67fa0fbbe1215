"""Where things lie in a store, and which names may lie there."""

import re

from kdcore.errors import CorruptShard, StoreError

__all__ = ["CARD", "DATA", "IDENTITY", "JOURNAL", "MANIFEST", "PROBE", "check_index", "check_shard", "check_unit"]

MANIFEST, IDENTITY, CARD, PROBE = "manifest.json", "identity.json", "README.md", "probe.json"
DATA, JOURNAL = "data", "journal"
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SHARD = re.compile(rf"{DATA}/[A-Za-z0-9][A-Za-z0-9._-]*\.arrow")
_INDEX = re.compile(r"index-[0-9a-f]+\.arrow")


def check_unit(unit: str) -> str:
    """A unit id that is safe as a file name; StoreError otherwise."""
    if not _UNIT.fullmatch(unit):
        raise StoreError(f"a unit id is letters, digits, '-' and '_', got {unit!r}")
    return unit


def check_shard(shard: str, where: str) -> str:
    """The name of a manifest's or receipt's shard; CorruptShard unless it is a plain file name in data/."""
    if not _SHARD.fullmatch(shard):
        raise CorruptShard(f"a shard is '{DATA}/NAME.arrow' inside its store, {where} says {shard!r}: refused")
    return shard


def check_index(index: str, where: str) -> str:
    """The name of a manifest's index; CorruptShard unless it is 'index-TOKEN.arrow'."""
    if not _INDEX.fullmatch(index):
        raise CorruptShard(f"an index is 'index-TOKEN.arrow' at the root of its store, {where} says {index!r}: refused")
    return index
