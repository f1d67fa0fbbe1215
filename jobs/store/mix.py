"""`kd store mix`: what several teachers say, as one store."""

from typing import Annotated

import typer

from jobs.common import command
from jobs.store.shown import OutPath, progress_of, say_made

__all__ = ["mix"]


@command
def mix(
    out: OutPath,
    stores: Annotated[list[str], typer.Argument(help="Two or more finished stores.", metavar="STORE...")],
    rule: Annotated[
        str, typer.Option(help="arithmetic, geometric, entropy, agreement, min_ce or max_confidence.")
    ] = "arithmetic",
    weights: Annotated[str | None, typer.Option(help="Of each store, such as 0.7,0.3; default: equal.")] = None,
    missing: Annotated[
        str, typer.Option(help="Samples that a store lacks: refuse, or rest (of the stores).")
    ] = "refuse",
) -> None:
    """Write the labels of several teachers, mixed by a rule, as a new store; a killed mix continues.

    A run can read a mix as it is (labels.mix in a recipe), with other weights the next time; this is for where the
    stores cannot go. Mixed draws are drawn again, which adds variance and no bias. The sources stay as they are.
    """
    from kdcore.store import mix_stores
    from kdcore.store.mix.opening import mix_settings

    shares = None if weights is None else [_number(part) for part in weights.split(",")]
    settings = mix_settings(stores, rule, shares, missing)
    with progress_of("mixing") as progress:
        made = mix_stores(out, settings, progress)
    say_made(out, made)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"weights are numbers with commas between them, such as 0.7,0.3; got '{text}'"
        ) from None
