"""A pool of replicas on Ray, each in a placement group of its own."""

import queue
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.connect import cluster_session, import_ray
from cluster.labelling.controller import Outcome
from cluster.labelling.policy.moves import (
    Notice,
    ReplicaDied,
    ReplicaLoaded,
    ReplicaPlaced,
    ReplicaReady,
    UnitDone,
    UnitError,
)
from cluster.labelling.ranks import Ranks
from cluster.labelling.replica.actor import LABELLING
from cluster.nodes import draining_nodes
from cluster.placement import Bundle, close_group, open_group, replica_bundles
from cluster.preflight import reserve, shortage
from kdcore.config import Recipe
from kdcore.errors import ResourceError
from kdcore.planning.plan import Unit

__all__ = ["RayPool", "ray_pool"]

_NODES_SECONDS = 1.0


@contextmanager
def ray_pool(
    recipe: Recipe, replicas: int, store_path: str | None = None, kind: str = LABELLING
) -> Iterator["RayPool"]:
    """Actors on the recipe's cluster; ResourceError when it has no room for the first `replicas` of them.

    They write into the recipe's store unless `store_path` is another; `kind` is the class of a replica, MODULE:CLASS.
    """
    config = recipe.cluster
    bundles = replica_bundles(config, recipe.ranks)
    setting = "cluster.replicas" if recipe.ranks == 1 else "cluster.replicas (times teacher.tensor_parallel)"
    with cluster_session(config):
        wanted = [bundles] * replicas if bundles else []
        groups = reserve(wanted, config.resource_deadline_seconds, setting, together=True)
        pool = RayPool(recipe, store_path or str(recipe.store_path), bundles, groups, kind)
        try:
            yield pool
        finally:
            pool.stop()


class _Copy:
    """One start of a replica: its actors, the nodes they run on once they have room, and the notices passed on."""

    def __init__(self, replica: int, ranks: Ranks) -> None:
        self.replica, self.ranks = replica, ranks
        self.nodes: set[str] = set()
        self.told: dict[str, float] = {}


class _Call:
    """What the ranks of a replica were asked: it is answered by rank 0, when all have done their part."""

    def __init__(self, copy: _Copy, what: str, ranks: int) -> None:
        self.copy, self.what, self.left = copy, what, ranks
        self.answer: Any = None


class RayPool:
    """Actors on the open Ray session, each replica in a placement group of its own (anywhere, if it takes nothing).

    A replica of a split teacher is several actors, of which the end of one is the end of all. `groups` are those of the
    first replicas, already placed; others are asked for with `bundles`, one for each rank. Answers come in by
    callbacks, so that an event costs the same with ten replicas and with ten thousand.
    """

    def __init__(
        self,
        recipe: Recipe,
        store_path: str,
        bundles: Sequence[Bundle] = (),
        groups: Sequence[Any] = (),
        kind: str = LABELLING,
    ) -> None:
        self._ray = import_ray()
        self._recipe, self._store_path, self._bundles, self._kind = recipe, store_path, list(bundles), kind
        self._groups: dict[int, Any] = dict(enumerate(groups))
        self._copies: dict[int, _Copy] = {}
        self._answers: queue.SimpleQueue[tuple[_Call, int, Any]] = queue.SimpleQueue()
        self._told: deque[tuple[_Copy, Outcome]] = deque()
        self._look_at = 0.0

    def start(self, replica: int) -> None:
        """Create the actors; they begin when their placement group has room. Those that were there are killed."""
        self._kill(replica)
        if self._bundles and replica not in self._groups:
            self._groups[replica] = open_group(self._bundles, together=True)
        ranks = Ranks(self._recipe, self._store_path, self._groups.get(replica), self._kind)
        copy = self._copies[replica] = _Copy(replica, ranks)
        self._expect(copy, "place", ranks.place())
        self._expect(copy, "notice", ranks.notice())
        self._expect(copy, "load", ranks.load())

    def settle(self, replica: int) -> None:
        """Its identity, which needs the codec, makes it ready."""
        copy = self._copies[replica]
        self._expect(copy, "settle", copy.ranks.settle())

    def submit(self, replica: int, unit: Unit, attempt: str, batch_divisor: int = 1) -> None:
        """Only names travel: the actor reads its documents and writes its shard itself."""
        copy = self._copies[replica]
        self._expect(copy, "label", copy.ranks.label(unit, attempt, batch_divisor))

    def end(self, replica: int) -> None:
        """Kill its actors and close its placement group."""
        self._kill(replica)
        group = self._groups.pop(replica, None)
        if group is not None:
            close_group(group)

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The next answer of any actor, its death, or a notice of its end; None after `timeout` seconds without."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + _NODES_SECONDS
                self._look_at_nodes()
            while self._told:
                copy, outcome = self._told.popleft()
                if self._is_current(copy):
                    return outcome
            until = self._look_at if deadline is None else min(self._look_at, deadline)
            try:
                call, rank, answer = self._answers.get(timeout=max(0.0, until - now))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    return None
                continue
            if self._is_current(call.copy) and (outcome := self._outcome(call, rank, answer)) is not None:
                return outcome

    def shortage(self, seconds: float) -> ResourceError:
        """What one replica takes, and what the cluster has."""
        return shortage([self._bundles], seconds, "a single replica of cluster.replicas", "cluster.starved_seconds")

    def stop(self) -> None:
        """End the actors of this pool, whatever they are doing, and give their room back."""
        for replica in set(self._copies) | set(self._groups):
            self.end(replica)

    def _kill(self, replica: int) -> None:
        copy = self._copies.pop(replica, None)
        if copy is not None:
            copy.ranks.kill()

    def _expect(self, copy: _Copy, what: str, answers: Sequence[Any]) -> None:
        call = _Call(copy, what, len(answers))
        for rank, answer in enumerate(answers):
            answer.future().add_done_callback(lambda future, rank=rank: self._answers.put((call, rank, future)))

    def _is_current(self, copy: _Copy) -> bool:
        return self._copies.get(copy.replica) is copy

    def _outcome(self, call: _Call, rank: int, future: Any) -> Outcome | None:
        """None while other ranks are still at it; but a loss, a failed load, or a notice is said at once."""
        replica = call.copy.replica
        try:
            answer = future.result()
        except self._ray.exceptions.RayError as error:
            self._kill(replica)
            return Outcome(ReplicaDied(replica, _short(error, rank), announced=getattr(error, "preempted", False)))
        if call.what == "load" and isinstance(answer, Exception):
            self._kill(replica)
            return Outcome(UnitError(replica, answer))
        if call.what == "notice":
            seconds = self._recipe.cluster.notice_seconds
            return Outcome(Notice(replica, seconds, "its process was told to end (SIGTERM)"))
        if call.what == "place":
            call.copy.nodes.add(answer)
        call.left -= 1
        if rank == 0:
            call.answer = answer
        return None if call.left else self._answered(replica, call)

    def _answered(self, replica: int, call: _Call) -> Outcome:
        if isinstance(call.answer, Exception):
            return Outcome(UnitError(replica, call.answer))
        match call.what:
            case "place":
                return Outcome(ReplicaPlaced(replica))
            case "load":
                return Outcome(ReplicaLoaded(replica, call.answer))
            case "settle":
                return Outcome(ReplicaReady(replica), identity=call.answer)
            case _:
                return Outcome(UnitDone(replica), call.answer)

    def _look_at_nodes(self) -> None:
        draining = draining_nodes()
        for copy in self._copies.values() if draining else ():
            for node in copy.nodes & draining.keys():
                until = draining[node]
                if copy.told.get(node) != until:
                    copy.told[node] = until
                    seconds = max(0.0, until - time.time()) if until else None
                    told = Notice(copy.replica, seconds, f"its node {node[:8]} drains")
                    self._told.append((copy, Outcome(told)))


def _short(error: Exception, rank: int) -> str:
    """The first lines of Ray's account of a death that say something; of what our own code raised, that alone."""
    who = f"rank {rank}: " if rank else ""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return who + f"{type(cause).__name__}: {cause}"[:400]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return who + ("; ".join(lines[:2])[:400] if lines else type(error).__name__)
