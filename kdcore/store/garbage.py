"""Remove what nothing names: losers of two attempts, torn files, uploads that never ended, plans of finished stores."""

from kdcore.errors import IncompleteStore
from kdcore.store.beginning import is_begun
from kdcore.store.journal import read_receipts
from kdcore.store.layout import DATA, IDENTITY, JOURNAL, PLAN, PROBE, is_temporary, is_written_by_us
from kdcore.store.manifest import is_finished, load_manifest
from kdcore.store.storage.places import Location, Place, open_place

__all__ = ["collect_garbage"]

_DAY = 24 * 3600.0


def collect_garbage(store: Location, min_age_seconds: float = _DAY, dry_run: bool = False) -> list[str]:
    """Remove the orphans of a store that are at least so old; returns their names (uploads as 'upload of NAME').

    A job that is still writing owns files that nobody names yet: `min_age_seconds` must be longer than the writing of
    one shard. Receipts stay, and so does every name that a store's writer would not choose. IncompleteStore when there
    is no store here, CorruptShard when its manifest is damaged: then nobody knows what is garbage.
    """
    place = open_place(store)
    if not is_begun(place):
        raise IncompleteStore(
            f"{place} is not a label store (it has neither {IDENTITY} nor {PROBE}): nothing was removed; give the path "
            f"of a store"
        )
    # Listed before the names are read: a shard whose receipt is published in between is named, not garbage.
    old = [
        name
        for folder in ("", DATA, JOURNAL, PLAN)
        for name, age in sorted(place.ages(folder).items())
        if age >= min_age_seconds and is_written_by_us(name)
    ]
    named = _named(place)
    found = [name for name in old if name not in named]
    if not dry_run:
        for name in found:
            place.delete(name)
    uploads = place.unfinished_uploads(min_age_seconds, is_written_by_us, abort=not dry_run)
    return [*found, *(f"upload of {name}" for name in uploads)]


def _named(place: Place) -> set[str]:
    if is_finished(place):
        manifest = load_manifest(place)
        return {manifest.index.file, *(receipt.shard for receipt in manifest.shards)}
    plan = {name for name in place.sizes(PLAN) if not is_temporary(name)}  # of a job that may go on
    return plan | {receipt.shard for receipt in read_receipts(place).values()}
