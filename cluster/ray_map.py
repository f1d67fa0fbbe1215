"""Pure functions as tasks of the open Ray session: a map over many, and one alone."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from cluster.connect import import_ray
from kdcore.errors import ClusterError, KDError, StorageUnavailable, portable

__all__ = ["ray_map", "run_one"]

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


def run_one(function: Callable[[Task], Result], task: Task, /, cpus: float, gpus: float = 0) -> Result:
    """`function(task)` in a worker process of its own, which ends after it.

    Raises the KDError that it raised, and ClusterError when no worker survives it; a mistake of ours comes as Ray's
    error, with the worker's traceback.
    """
    ray = import_ray()
    run = ray.remote(num_cpus=cpus, num_gpus=gpus, max_calls=1, max_retries=_ATTEMPTS)(function)
    try:
        return ray.get(run.remote(task))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, KDError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise _none_survived(function.__name__, error) from error


def _none_survived(what: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"{what} must end on a worker of the cluster; {_ATTEMPTS + 1} workers died over it, the last so: "
        f"{str(error).strip()[:400]}. Likely their nodes are short of memory"
    )


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
            raise _none_survived(f"{self._function.__name__} of part {number}", error) from error
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
