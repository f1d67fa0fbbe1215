"""Remove what no manifest and no receipt names: losers of two attempts, torn files, uploads that never ended."""

from kdcore.errors import IncompleteStore
from kdcore.store.journal import read_receipts
from kdcore.store.layout import DATA, IDENTITY, JOURNAL
from kdcore.store.manifest import is_finished, load_manifest
from kdcore.store.places import Location, Place, open_place

__all__ = ["collect_garbage"]

_DAY = 24 * 3600.0


def collect_garbage(store: Location, min_age_seconds: float = _DAY, dry_run: bool = False) -> list[str]:
    """Remove the orphans of a store that are at least so old; returns their names (uploads as 'upload of NAME').

    A job that is still writing owns files that nobody names yet: `min_age_seconds` must be longer than the writing of
    one shard. Receipts stay. IncompleteStore when there is no store here, CorruptShard when its manifest is damaged:
    then nobody knows what is garbage.
    """
    place = open_place(store)
    named = _named(place)
    found = [
        name
        for folder in ("", DATA, JOURNAL)
        for name, age in sorted(place.ages(folder).items())
        if age >= min_age_seconds and _is_ours(name) and name not in named
    ]
    if not dry_run:
        for name in found:
            place.delete(name)
    uploads = place.unfinished_uploads(min_age_seconds, abort=not dry_run)
    return [*found, *(f"upload of {name}" for name in uploads)]


def _named(place: Place) -> set[str]:
    if is_finished(place):
        manifest = load_manifest(place)
        return {manifest.index.file, *(receipt.shard for receipt in manifest.shards)}
    if place.size(IDENTITY) is None:
        raise IncompleteStore(f"{place} is not a label store (it has no {IDENTITY}): nothing was removed")
    return {receipt.shard for receipt in read_receipts(place).values()}


def _is_ours(name: str) -> bool:
    """Whether only a store's writer can have made a file of this name, and nothing but a manifest keeps it."""
    folder, _, file = name.rpartition("/")
    if file.startswith("."):
        return file.endswith((".tmp", ".partial"))
    if folder == DATA:
        return file.endswith(".arrow")
    return not folder and file.startswith("index-") and file.endswith(".arrow")
