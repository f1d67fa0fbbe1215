"""Where things lie in a store, and which names may lie there."""

import re

from kdcore.errors import CorruptShard, StoreError

__all__ = [
    "CARD",
    "DATA",
    "IDENTITY",
    "JOURNAL",
    "MANIFEST",
    "PLAN",
    "PROBE",
    "check_index",
    "check_shard",
    "check_unit",
    "is_plan_file",
    "is_temporary",
    "is_written_by_us",
]

MANIFEST, IDENTITY, CARD, PROBE = "manifest.json", "identity.json", "README.md", "probe.json"
DATA, JOURNAL, PLAN = "data", "journal", "plan"
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SHARD = re.compile(rf"{DATA}/[A-Za-z0-9][A-Za-z0-9._-]*\.arrow")
_INDEX = re.compile(r"index-[0-9a-f]+\.arrow")
# What writers name their files, at its narrowest: unit-UNIT-ATTEMPT-TOKEN.arrow, index-TOKEN.arrow, and hidden names.
_SHARD_NAME = r"unit-[A-Za-z0-9_-]+-[A-Za-z0-9_-]+-[0-9a-f]{8}\.arrow"
_INDEX_NAME = r"index-[0-9a-f]{16}\.arrow"
_PLAN_NAME = r"(?:rows|keys|repeats|cut|units)-[0-9a-f]{32}-[0-9a-f]{16}\.arrow"
_PLAN_NOTE = r"(?:survey|input)-[0-9a-f]{32}\.json"
_FINAL = re.compile(rf"{DATA}/{_SHARD_NAME}|{_INDEX_NAME}|{PLAN}/{_PLAN_NAME}|{PLAN}/survey-[0-9a-f]{{32}}\.json")
_HIDDEN = re.compile(
    rf"\.(?:{_SHARD_NAME}|{_INDEX_NAME}|{_PLAN_NAME})\.partial"
    r"|\.(?:(?:manifest|identity|probe)\.json|README\.md|trial|unit-[A-Za-z0-9_-]+\.json"
    rf"|{_PLAN_NOTE})\.[0-9a-f]{{16}}\.tmp"
)


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


def is_temporary(name: str) -> bool:
    """Whether a name (in any folder of a store) is that of a file that a writer of ours was killed over."""
    return _HIDDEN.fullmatch(name.rpartition("/")[2]) is not None


def is_written_by_us(name: str) -> bool:
    """Whether only a store's writer can have made a file of this name, and nothing but a manifest or receipt keeps it.

    A shard in data/, an index at the root, what a plan is made of in plan/, or a temporary file of these.
    """
    if name.count("/") and name.rpartition("/")[0] not in (DATA, JOURNAL, PLAN):
        return False
    return is_temporary(name) or _FINAL.fullmatch(name) is not None


def is_plan_file(name: str) -> bool:
    """Whether a name in plan/ is one that only the planning of a job can have given."""
    return is_temporary(name) or re.fullmatch(f"{_PLAN_NAME}|{_PLAN_NOTE}", name) is not None
