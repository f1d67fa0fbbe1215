"""`kd store compact`: few large shards from many small ones."""

from typing import Annotated

import typer

from jobs.common import command
from jobs.store.shown import OutPath, StorePath, parse_bytes, progress_of, say_made

__all__ = ["compact"]


@command
def compact(
    store: StorePath,
    out: OutPath,
    shard_bytes: Annotated[str, typer.Option("--shard-bytes", help="About how large a shard is to be.")] = "256MB",
) -> None:
    """Write the store anew in larger shards: the same rows in the same order, the same columns bit for bit.

    A killed run continues when it is run again. The source stays as it is.
    """
    size = parse_bytes(shard_bytes)

    from kdcore.store import compact_store

    with progress_of("compacting") as progress:
        made = compact_store(store, out, size, progress)
    say_made(out, made)
