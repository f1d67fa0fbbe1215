"""`kd store gc`: remove what no manifest and no receipt names."""

from typing import Annotated

import typer

from jobs.common import command, say
from jobs.store.shown import StorePath, parse_seconds

__all__ = ["gc"]

_SHORTEST = 300.0


@command
def gc(
    store: StorePath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    min_age: Annotated[
        str, typer.Option("--min-age", help="Younger files stay: a running job owns files that nobody names yet.")
    ] = "24h",
    force: Annotated[bool, typer.Option("--force", help="Allow --min-age below 5m: no job writes here.")] = False,
) -> None:
    """Remove the orphans: shards of lost attempts, torn files, uploads that never ended, and a finished store's plan.

    Receipts, the manifest, and whatever they name stay, and so does any file that no store's writer can have made.
    """
    seconds = parse_seconds(min_age)
    if seconds < _SHORTEST and not (force or dry_run):
        raise typer.BadParameter(
            f"--min-age is at least {_SHORTEST / 60:.0f}m, got '{min_age}': a job that is writing now owns files that "
            f"nobody names yet. If no job is writing to this store, say --force"
        )

    from kdcore.store import collect_garbage, open_place
    from kdcore.store.layout import DATA, JOURNAL, PLAN

    place = open_place(store)
    sizes = {name: size for folder in ("", DATA, JOURNAL, PLAN) for name, size in place.sizes(folder).items()}
    names = collect_garbage(place, seconds, dry_run)
    for name in names:
        say(name)
    freed = sum(sizes.get(name, 0) for name in names)
    say(f"{len(names)} orphans, {freed:,} bytes: {'nothing was removed' if dry_run else 'removed'}")
