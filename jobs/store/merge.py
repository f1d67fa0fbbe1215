"""`kd store merge`: one store of several."""

from typing import Annotated

import typer

from jobs.common import command
from jobs.store.shown import OutPath, progress_of, say_made

__all__ = ["merge"]


@command
def merge(
    out: OutPath,
    stores: Annotated[list[str], typer.Argument(help="Two or more finished stores.", metavar="STORE...")],
) -> None:
    """Merge finished stores that differ in their input alone: one teacher, tokenizer, numerics and codec.

    Shards are copied byte for byte and hashed on the way; a sample that is in several stores is kept once, and its
    occurrences are added up. A killed merge continues when it is run again. The sources stay as they are.
    """
    from kdcore.store import merge_stores

    with progress_of("merging") as progress:
        made = merge_stores(out, stores, progress)
    say_made(out, made)
