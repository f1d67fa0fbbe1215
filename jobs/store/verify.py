"""`kd store verify`: prove a store, or say everything that is wrong with it."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import Overrides, command
from jobs.store.shown import StorePath, facts_table, progress_of

if TYPE_CHECKING:
    from rich.console import Console

    from kdcore.config import Recipe

__all__ = ["verify"]

_PROBLEMS = 1


@command
def verify(
    store: StorePath,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes, footers and counts only, no digests.")] = False,
    against_teacher: Annotated[
        str | None,
        typer.Option("--against-teacher", metavar="RECIPE", help="Also make labels again, by this recipe's teacher."),
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows' labels are made again.")] = 500,
) -> None:
    """Read every byte and compare digests; exit code 1 when something is wrong.

    With --against-teacher the labels of --rows rows, spread over the store, are made again from the recipe's data:
    of the very views, if they are of views; texts that a teacher wrote are in the store. What is compared, beyond
    the codec's rounding and the teacher's numerics: of dense and topk the probability that lies on other classes;
    of threshold and sampled, whose draws are made again, the share that falls elsewhere; of feature the norm of the
    difference. KEY=VALUE are settings in place of the recipe's, as they were given when the labels were made;
    RUNS/NAME/config.yaml, a run's own recipe, has them already.
    """
    from rich.console import Console

    from kdcore.config.load import load_recipe
    from kdcore.store import verify_store

    if overrides and against_teacher is None:
        raise typer.BadParameter(f"{shlex.join(overrides)}: settings are of a recipe; add --against-teacher RECIPE")
    # Before the store is read: a typo is answered at once.
    recipe = None if against_teacher is None else load_recipe(against_teacher, overrides or ())
    console = Console(soft_wrap=True)
    with progress_of("verifying") as progress:
        report = verify_store(store, not quick, progress)
    checked = "digests, columns and distributions" if report.full else "sizes, footers and counts (no digests)"
    facts = {"shards": report.shards, "rows": report.rows, "labels": report.labels, "bytes": report.bytes}
    console.print(facts_table(f"{store}: {checked}", {name: f"{value:,}" for name, value in facts.items()}))
    for note in report.notes:
        console.print(note, markup=False, highlight=False)
    for problem in report.problems:
        console.print(problem, style="red", markup=False, highlight=False)
    if report.problems:
        raise typer.Exit(_PROBLEMS)
    if recipe is not None:
        _compare(console, store, recipe, rows)
    console.print("right", style="green")


def _compare(console: "Console", store: str, recipe: "Recipe", rows: int) -> None:
    from cluster.labelling.against_teacher import verify_against_teacher

    with progress_of("labelling again") as progress:
        report = verify_against_teacher(store, recipe, rows, progress)
    facts = {"rows": f"{report.rows:,}", "labels": f"{report.labels:,}"}
    facts["largest difference"] = f"{report.largest:.2g} of what codec and numerics explain"
    console.print(facts_table(f"{store}: labels against those of the teacher of {recipe.name}", facts))
    for problem in report.problems:
        console.print(problem, style="red", markup=False, highlight=False)
    if report.unlisted:
        console.print(f"and {report.unlisted:,} more", style="red", markup=False, highlight=False)
    if report.problems:
        raise typer.Exit(_PROBLEMS)
