"""`kd`: everything a person types. Commands import what they need when they run, so that help answers at once."""

import typer

from jobs.distill import distill
from jobs.doctor import doctor
from jobs.evaluate import evaluate
from jobs.precompute import precompute
from jobs.remote import logs, status, stop
from jobs.store import app as store_app
from jobs.submit import submit
from jobs.synthesize import synthesize
from jobs.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="kd",
    help="Knowledge distillation: label with a teacher, train students from the labels, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for job in (doctor, synthesize, precompute, train, evaluate, distill, submit, status, stop, logs):
    app.command()(job)
app.add_typer(store_app, name="store")


def main() -> None:
    """The entry point of `kd`."""
    app()


if __name__ == "__main__":
    main()
