"""`kd store verify`: prove a store, or say everything that is wrong with it."""

from typing import Annotated

import typer

from jobs.common import command
from jobs.store.shown import StorePath, facts_table, progress_of

__all__ = ["verify"]

_PROBLEMS = 1


@command
def verify(
    store: StorePath,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes, footers and counts only, no digests.")] = False,
) -> None:
    """Read every byte and compare digests; exit code 1 when something is wrong."""
    from rich.console import Console

    from kdcore.store import verify_store

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
    console.print("right", style="green")
