"""A map over pure functions as tasks of the open Ray session."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from cluster.connect import import_ray
from kdcore.errors import ClusterError, StorageUnavailable, portable

__all__ = ["ray_map"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_ATTEMPTS = 3
_AHEAD = 2  # tasks under way for each CPU, so that none waits for this process


def ray_map(function: Callable[[Task], Result], tasks: Iterable[Task], /) -> Iterator[tuple[int, Result]]:
    """(position of the task, result) as they end; a few tasks for each CPU are under way, so tasks may be endless.

    A task whose worker died, or whose storage did not answer, is run again. An error comes back as itself, and
    ends the map: what is under way is cancelled. ClusterError for a task that no worker survives.
    """
    under_way = _UnderWay(function)
    try:
        for number, task in enumerate(tasks):
            while under_way.is_full():
                yield from under_way.next()
            under_way.start(number, task, _ATTEMPTS)
        while under_way.pending:
            yield from under_way.next()
    finally:
        under_way.cancel()


class _UnderWay:
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._ray = import_ray()
        self._run = self._ray.remote(_answer).options(num_cpus=1, max_retries=_ATTEMPTS)
        self._function = function
        self.pending: dict[Any, tuple[int, Any, int]] = {}

    def is_full(self) -> bool:
        # Asked each time: a cluster may grow.
        return len(self.pending) >= _AHEAD * max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, number: int, task: Any, attempts: int) -> None:
        self.pending[self._run.remote(self._function, task)] = number, task, attempts

    def next(self) -> Iterator[tuple[int, Any]]:
        """Wait for a task to end: its result, or nothing when it is tried again."""
        ready, _ = self._ray.wait(list(self.pending), num_returns=1)
        number, task, attempts = self.pending.pop(ready[0])
        try:
            answer = self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            raise ClusterError(
                f"{self._function.__name__} of part {number} must end on a worker of the cluster; {_ATTEMPTS + 1} "
                f"workers died over it, the last so: {str(error).strip()[:400]}. Likely their nodes are short of memory"
            ) from error
        if isinstance(answer, StorageUnavailable) and attempts > 1:
            self.start(number, task, attempts - 1)
            return
        if isinstance(answer, Exception):
            raise answer
        yield number, answer

    def cancel(self) -> None:
        for answer in self.pending:
            self._ray.cancel(answer)
        self.pending.clear()


def _answer(function: Callable[[Any], Any], task: Any) -> Any:
    """What the function gives; an error as a value, since Ray would wrap it in its own tracebacks."""
    try:
        return function(task)
    except Exception as error:  # noqa: BLE001  raised in the driver
        return portable(error)
