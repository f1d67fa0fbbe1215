"""What every command shares: arguments, and one readable message instead of a traceback."""

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from kdcore.errors import KDError, UnitFailed

__all__ = ["Overrides", "RecipeFile", "command", "run_alone", "say"]

RecipeFile = Annotated[str, typer.Argument(help="The recipe, a YAML file.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that replace the recipe's: training.steps=10 name=other.", metavar="[KEY=VALUE]..."),
]

_FAILED, _UNITS_FAILED, _INTERRUPTED, _TERMINATED = 2, 3, 130, 143


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A job whose KDErrors become one red message and exit code 2 (3 when work units failed); 143 after SIGTERM."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KDError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("interrupted; the same command continues from here", file=sys.stderr)
            raise typer.Exit(_INTERRUPTED) from None
        except SystemExit as end:
            if end.code == _TERMINATED:
                print("terminated; the same command continues from here", file=sys.stderr)
            raise

    return run


def _fail(error: KDError) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    message = Text.assemble((f"{type(error).__name__}: ", "bold red"), (str(error), "red"))
    Console(stderr=True, soft_wrap=True).print(message)
    raise typer.Exit(_UNITS_FAILED if isinstance(error, UnitFailed) else _FAILED) from None


def say(message: str) -> None:
    """One line to the person, at once even into a pipe."""
    print(message, flush=True)


def run_alone(function: Callable[..., None]) -> None:
    """What `python -m jobs.<name>` does: the one command, without a subcommand's name."""
    app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
    app.command()(function)
    app()
