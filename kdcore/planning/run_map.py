"""How the tasks of a plan are run: in this process, or by whatever else maps a function over them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


class RunMap(Protocol):
    """Runs a function of a module over tasks, each a pure function's argument that may be run again elsewhere."""

    def __call__(self, function: Callable[[Task], Result], tasks: Iterable[Task], /) -> Iterator[tuple[int, Result]]:
        """(position of the task, result) in any order. `tasks` are drawn as they can be run, few at a time."""
        ...


def in_process(function: Callable[[Task], Result], tasks: Iterable[Task], /) -> Iterator[tuple[int, Result]]:
    """One after the other, here."""
    for number, task in enumerate(tasks):
        yield number, function(task)
