"""`kd store plot`: a store in one picture."""

from typing import Annotated

import typer

from jobs.common import command, say
from jobs.store.shown import StorePath

__all__ = ["plot"]


@command
def plot(
    store: StorePath,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="The picture, a path or URL; default: NAME-OF-STORE.png here.")
    ] = None,
) -> None:
    """Draw what a label weighs, how many classes it names and how its weight falls, and what its codec loses."""
    from kdcore.evaluation.fidelity_figure import draw_store
    from kdcore.evaluation.store_profile import profile_store
    from kdcore.store import open_place, open_store

    opened = open_store(store)
    path = output or f"{opened.path.rstrip('/').rpartition('/')[2] or 'store'}.png"
    picture = draw_store(opened, profile_store(opened))
    folder, slash, name = path.rpartition("/")
    place = open_place(folder or slash or ".")
    place.prepare()
    place.put(name, picture)
    say(f"{path}: {len(picture):,} bytes")
