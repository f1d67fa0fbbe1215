"""The twin of a pool of actors in this process, on which faults are tried without Ray."""

import time
from collections import deque
from collections.abc import Callable, Collection

from cluster.labelling.controller import Labeller, Outcome
from cluster.labelling.policy.moves import ReplicaDied, ReplicaLoaded, ReplicaReady, UnitDone, UnitError
from kdcore.errors import ResourceError
from kdcore.planning.plan import Unit

__all__ = ["InProcessPool"]


class InProcessPool:
    """Labels one unit at a time; `deaths` are (unit, attempt number) that kill a replica."""

    def __init__(self, make: Callable[[], Labeller], deaths: Collection[tuple[str, int]] = ()) -> None:
        self._make, self._deaths = make, set(deaths)
        self._replicas: dict[int, Labeller] = {}
        self._work: deque[tuple[int, Unit | str, str, int]] = deque()
        self._tries: dict[str, int] = {}
        self.died: list[str] = []

    def start(self, replica: int) -> None:
        """Load it at the next `wait`."""
        self._work.append((replica, "load", "", 1))

    def settle(self, replica: int) -> None:
        """Ask for its identity at one of the next `wait`s."""
        self._work.append((replica, "settle", "", 1))

    def end(self, replica: int) -> None:
        """Forget it, and what it was to do."""
        self._replicas.pop(replica, None)
        self._work = deque(item for item in self._work if item[0] != replica)

    def shortage(self, seconds: float) -> ResourceError:
        """There is always room here, unless a test says otherwise."""
        return ResourceError(f"no room for {seconds:g} s")

    def submit(self, replica: int, unit: Unit, attempt: str, batch_divisor: int = 1) -> None:
        """Label it at one of the next `wait`s."""
        self._work.append((replica, unit, attempt, batch_divisor))

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Do the oldest piece of work; without any, time passes."""
        if not self._work and timeout is not None:
            time.sleep(timeout)
            return None
        replica, unit, attempt, divisor = self._work.popleft()
        try:
            if unit == "load":
                self._replicas[replica] = self._make()
                return Outcome(ReplicaLoaded(replica, self._replicas[replica].note))
            if isinstance(unit, str):
                return Outcome(ReplicaReady(replica), identity=self._replicas[replica].identity())
            number = self._tries.get(unit.id, 0)
            self._tries[unit.id] = number + 1
            if (unit.id, number) in self._deaths:
                self.died.append(unit.id)
                del self._replicas[replica]
                return Outcome(ReplicaDied(replica, "killed by the test"))
            return Outcome(UnitDone(replica), self._replicas[replica].label(unit, attempt, divisor))
        except Exception as error:  # noqa: BLE001  whatever a unit raises is the policy's to judge
            return Outcome(UnitError(replica, error))
