"""Pools of replicas: Ray actors, and their twin in this process."""

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from cluster.connect import import_ray
from cluster.labelling.actor import TeacherActor
from cluster.labelling.controller import Labeller, Outcome
from cluster.labelling.policy import ReplicaDied, ReplicaReady, UnitDone, UnitError
from kdcore.config import ClusterConfig
from kdcore.data.plan import WorkUnit

__all__ = ["InProcessPool", "RayPool"]


class InProcessPool:
    """The twin: labels in this process, one unit at a time; `deaths` are (unit, attempt number) that kill a replica."""

    def __init__(self, make: Callable[[], Labeller], deaths: Collection[tuple[str, int]] = ()) -> None:
        self._make, self._deaths = make, set(deaths)
        self._replicas: dict[int, Labeller] = {}
        self._work: deque[tuple[int, WorkUnit | None, str, int]] = deque()
        self._tries: dict[str, int] = {}
        self.died: list[str] = []

    def start(self, replica: int) -> None:
        """Load it at the next `wait`."""
        self._work.append((replica, None, "", 1))

    def submit(self, replica: int, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> None:
        """Label it at one of the next `wait`s."""
        self._work.append((replica, unit, attempt, batch_divisor))

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Do the oldest piece of work; without any, time passes."""
        if not self._work and timeout is not None:
            time.sleep(timeout)
            return None
        replica, unit, attempt, divisor = self._work.popleft()
        try:
            if unit is None:
                self._replicas[replica] = self._make()
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


class RayPool:
    """Actors on the open Ray session, each replica in a placement group of its own (or wherever, without groups)."""

    def __init__(self, config: ClusterConfig, recipe_json: str, store_path: str, groups: Sequence[Any] = ()) -> None:
        self._ray = import_ray()
        self._config, self._groups = config, groups
        self._arguments = (recipe_json, store_path)
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, tuple[int, bool]] = {}
        self._answers: dict[int, Any] = {}

    def start(self, replica: int) -> None:
        """Create the actor; its answer to `load`, its identity, is its readiness. One that was there is killed."""
        if replica in self._actors:
            self._running.pop(self._answers.pop(replica, None), None)
            self._ray.kill(self._actors.pop(replica))
        actor = self._ray.remote(TeacherActor).options(**self._options(replica)).remote(*self._arguments)
        self._actors[replica] = actor
        self._expect(replica, actor.load.remote(self._config.cpus_per_replica), loading=True)

    def submit(self, replica: int, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> None:
        """Only names travel: the actor reads its documents and writes its shard itself."""
        self._expect(replica, self._actors[replica].label.remote(unit, attempt, batch_divisor), loading=False)

    def _expect(self, replica: int, answer: Any, loading: bool) -> None:
        self._answers[replica], self._running[answer] = answer, (replica, loading)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The next answer of any actor, or its death; None after `timeout` seconds without."""
        if not self._running and timeout is not None:
            time.sleep(timeout)
            return None
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if not ready:
            return None
        replica, loading = self._running.pop(ready[0])
        try:
            answer = self._ray.get(ready[0])
        except self._ray.exceptions.RayError as error:
            return Outcome(ReplicaDied(replica, _short(error)))
        if isinstance(answer, Exception):
            return Outcome(UnitError(replica, answer))
        return Outcome(ReplicaReady(replica), identity=answer) if loading else Outcome(UnitDone(replica), answer)

    def stop(self) -> None:
        """End the actors of this pool, whatever they are doing."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._running.clear()

    def _options(self, replica: int) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_cpus": self._config.cpus_per_replica,
            "num_gpus": self._config.gpus_per_replica,
            "max_restarts": 0,
        }
        if self._groups:
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                self._groups[replica], placement_group_bundle_index=0
            )
        return options


def _short(error: Exception) -> str:
    """The first lines of Ray's account of a death that say something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2])[:400] if lines else type(error).__name__
