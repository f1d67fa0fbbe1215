"""What the commands of `kd store` share: arguments, tables, progress, sizes and durations as people write them."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import say

if TYPE_CHECKING:
    from rich.table import Table

    from kdcore.store import Derived

__all__ = ["OutPath", "StorePath", "facts_table", "parse_bytes", "parse_seconds", "progress_of", "say_made"]

StorePath = Annotated[str, typer.Argument(help="The store, a directory or a URL.", metavar="STORE")]
OutPath = Annotated[str, typer.Argument(help="The new store, a directory or a URL.", metavar="OUT")]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


def facts_table(title: str, facts: Mapping[str, str]) -> "Table":
    """Names and values under a title."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def parse_bytes(text: str) -> int:
    """'256MB', '64MiB', '1000' in bytes; typer.BadParameter otherwise."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(|[kmgt]i?)b?", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"a size is a number with kB, MB, GB or KiB, MiB, GiB, such as 256MB; got '{text}'")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_seconds(text: str) -> float:
    """'90', '15m', '24h', '7d' in seconds; typer.BadParameter otherwise."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(|s|m|min|h|d)", text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"a time is a number with s, m, h or d, such as 24h; got '{text}'")
    return float(match[1]) * _SECONDS[match[2]]


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; gives the function that is called with what is done and what there is."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def say_made(out: str, made: "Derived") -> None:
    """One line on a finished store."""
    manifest, state = made.manifest, "is finished; nothing to do" if made.was_there else "finished"
    counts = f"{manifest.num_rows:,} rows, {manifest.num_labels:,} labels, {manifest.num_bytes:,} bytes"
    say(f"{out} {state}: {counts} in {len(manifest.shards):,} shards")
