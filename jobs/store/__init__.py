"""`kd store`: look at a label store, prove it, and make other stores and files of it."""

import typer

from jobs.store.compact import compact
from jobs.store.export import export
from jobs.store.gc import gc
from jobs.store.importing import app as import_app
from jobs.store.info import info
from jobs.store.merge import merge
from jobs.store.mix import mix
from jobs.store.plot import plot
from jobs.store.sample import sample
from jobs.store.verify import verify

__all__ = ["app"]

app = typer.Typer(
    help="Look at a label store, prove it, and make other stores and files of it.",
    no_args_is_help=True,
    add_completion=False,
)
for tool in (info, verify, plot, sample, merge, mix, compact, gc, export):
    app.command()(tool)
app.add_typer(import_app, name="import")
