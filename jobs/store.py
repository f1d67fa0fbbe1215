"""`kd store`: look at a label store, and prove it."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import command

if TYPE_CHECKING:
    from rich.table import Table

    from kdcore.store import LabelStore

__all__ = ["app", "info", "verify"]

app = typer.Typer(help="Look at a label store, and prove it.", no_args_is_help=True, add_completion=False)
StorePath = Annotated[str, typer.Argument(help="The store, a directory or a URL.", metavar="STORE")]
_PROBLEMS = 1


@app.command()
@command
def info(store: StorePath) -> None:
    """Whose labels these are, how many, and what a label weighs."""
    from rich.console import Console

    from kdcore.store import open_store

    opened = open_store(store)
    console = Console()
    console.print(_summary(opened), _weights(opened))
    statistics = opened.manifest.extra
    if statistics:
        console.print(_table("measured while labelling", {k: str(v) for k, v in _flat(statistics).items()}))


@app.command()
@command
def verify(
    store: StorePath,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes, footers and counts only, no digests.")] = False,
) -> None:
    """Read every byte and compare digests; exit code 1 when something is wrong."""
    from rich.console import Console
    from rich.progress import Progress

    from kdcore.store import verify_store

    console = Console(soft_wrap=True)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=None)
        report = verify_store(store, not quick, lambda done, total: progress.update(task, completed=done, total=total))
    checked = "digests, columns and distributions" if report.full else "sizes, footers and counts (no digests)"
    facts = {"shards": report.shards, "rows": report.rows, "labels": report.labels, "bytes": report.bytes}
    console.print(_table(f"{store}: {checked}", {name: f"{value:,}" for name, value in facts.items()}))
    for problem in report.problems:
        console.print(problem, style="red", markup=False, highlight=False)
    if report.problems:
        raise typer.Exit(_PROBLEMS)
    console.print("right", style="green")


def _summary(store: "LabelStore") -> "Table":
    identity = store.identity
    teacher = identity.get("teacher") or {}
    numerics = {**(identity.get("numerics") or {})}
    facts = {
        "kind": store.kind,
        "teacher": teacher.get("path") or teacher.get("name") or teacher.get("type"),
        "teacher weights": teacher.get("weights"),
        "tokenizer": identity.get("tokenizer"),
        "numerics": ", ".join(f"{name} {value}" for name, value in numerics.items()),
        "codec": ", ".join(f"{name} {value}" for name, value in store.codec.spec().items()),
        "input": identity.get("input"),
        "created": store.manifest.created,
        "shards": f"{len(store.manifest.shards):,}",
        "rows": f"{store.num_rows:,}",
        "samples": f"{int(store.occurrences().sum()):,}",
        "labels": f"{store.num_labels:,}",
        "bytes": f"{store.manifest.num_bytes:,}",
    }
    return _table(str(store.path), {name: str(value) for name, value in facts.items() if value})


def _weights(store: "LabelStore") -> "Table":
    return _table("bytes per label", {name: f"{size:.2f}" for name, size in store.bytes_per_label().items()})


def _table(title: str, facts: dict[str, str]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def _flat(value: dict, prefix: str = "") -> dict[str, object]:
    """Nested facts as dotted names."""
    result: dict[str, object] = {}
    for name, item in value.items():
        path = f"{prefix}{name}"
        result.update(_flat(item, f"{path}.") if isinstance(item, dict) else {path: item})
    return result


if __name__ == "__main__":
    app()
