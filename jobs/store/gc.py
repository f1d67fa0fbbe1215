"""`kd store gc`: remove what no manifest and no receipt names."""

from typing import Annotated

import typer

from jobs.common import command, say
from jobs.store.shown import StorePath, parse_seconds

__all__ = ["gc"]


@command
def gc(
    store: StorePath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    min_age: Annotated[
        str, typer.Option("--min-age", help="Younger files stay: a running job owns files that nobody names yet.")
    ] = "24h",
) -> None:
    """Remove the orphans of a store: shards of lost attempts, torn files, uploads that never ended.

    Receipts, the manifest, and whatever they name stay, and so does any file that no store's writer can have made.
    """
    seconds = parse_seconds(min_age)

    from kdcore.store import collect_garbage, open_place
    from kdcore.store.layout import DATA, JOURNAL

    place = open_place(store)
    sizes = {name: size for folder in ("", DATA, JOURNAL) for name, size in place.sizes(folder).items()}
    names = collect_garbage(place, seconds, dry_run)
    for name in names:
        say(name)
    freed = sum(sizes.get(name, 0) for name in names)
    say(f"{len(names)} orphans, {freed:,} bytes: {'nothing was removed' if dry_run else 'removed'}")
