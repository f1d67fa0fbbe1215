"""A simulated cluster over the real labelling policy: the clock, the costs and the faults are made up.

Costs are Pareto (capped), and one replica of a hundred is ten times slow without anyone having said so.
"""

import gc
import heapq
import itertools
import random
import time
from collections import deque

from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import (
    Assign,
    Decision,
    Event,
    Fail,
    Finish,
    Grow,
    Notice,
    Replace,
    ReplicaDied,
    ReplicaLoaded,
    ReplicaPlaced,
    ReplicaReady,
    Settle,
    Shrink,
    Starved,
    Tick,
    UnitDone,
)
from cluster.labelling.policy.state import Rules, State

SLOW, SLOWNESS = 0.01, 10.0
MEAN_SHAPE, SMALLEST, LARGEST = 1.5, 100_000, 10_000_000
BYTES_PER_SECOND = 20_000
RESTART_SECONDS = 30.0
PLACES, COMING, COMING_AGAIN, LIFE, NOTICE_SECONDS = 8, 300.0, 60.0, 4_000.0, 30.0


class Simulation:
    """So many replicas for the whole run; one dies every so often: its work is lost and it starts anew."""

    def __init__(self, replicas: int, units: int, failures_per_second: float, seed: int) -> None:
        self.rng = random.Random(seed)
        self.failures = failures_per_second
        self.sizes = {
            f"unit-{number:07d}": min(LARGEST, int(SMALLEST * self.rng.paretovariate(MEAN_SHAPE)))
            for number in range(units)
        }
        self.speed = [BYTES_PER_SECOND / (SLOWNESS if self.rng.random() < SLOW else 1) for _ in range(replicas)]
        self.alive: list[int] = [0] * replicas  # which process stands behind the number; the dead do not answer
        self.serial = itertools.count()
        self.rules = Rules(1_000, lowest=replicas, highest=replicas)
        self.clock, self.backups, self.copied_bytes, self.deaths = 0.0, 0, 0, 0
        self.log: list[tuple[Event, float]] = []  # what the policy was told, and when
        self.queue: list[tuple[float, int, int, int, str]] = []

    def bound(self) -> float:
        """No schedule ends sooner: capacity is lost to restarts only."""
        lost = self.failures * RESTART_SECONDS / len(self.speed)
        return max(
            sum(self.sizes.values()) / (sum(self.speed) * (1 - lost)), max(self.sizes.values()) / BYTES_PER_SECOND
        )

    def run(self) -> float:
        """Simulated seconds until all is done."""
        state = self._state()
        self._begin()
        while True:
            wake = state.wake_at()
            if wake is not None and wake < self.queue[0][0]:
                self.clock = max(self.clock, wake)
                event: Event | None = Tick()
            else:
                event = self._next()
            if event is not None and self._decide(state, event):
                return self.clock

    def policy_seconds(self) -> float:
        """Processor time of the policy alone: it is told the same once more, without the simulator."""
        state = self._state()
        gc.collect()
        gc.freeze()  # what the simulator holds is not the policy's to look through
        began = time.process_time()
        for event, now in self.log:
            decide(state, event, now)
            state.wake_at()
        spent = time.process_time() - began
        gc.unfreeze()
        return spent

    def _state(self) -> State:
        return State.of(list(self.sizes), self.rules, self.sizes)

    def _begin(self) -> None:
        for replica in range(len(self.speed)):
            self._push(0.0, replica, "ready")
        self._push(self.rng.expovariate(self.failures), -1, "death")

    def _next(self) -> Event | None:
        self.clock, _, replica, process, kind = heapq.heappop(self.queue)
        if kind == "death":
            self._push(self.clock + self.rng.expovariate(self.failures), -1, "death")
            victim = self.rng.randrange(len(self.speed))
            self.alive[victim] += 1
            self.deaths += 1
            return ReplicaDied(victim, "killed by the simulation")
        if process != self.alive[replica]:
            return None
        return ReplicaReady(replica) if kind == "ready" else UnitDone(replica)

    def _decide(self, state: State, event: Event) -> bool:
        self.log.append((event, self.clock))
        ends = [self._perform(decision) for decision in decide(state, event, self.clock)]
        return any(ends)

    def _perform(self, decision: Decision) -> bool:
        match decision:
            case Assign(replica, unit):
                self.backups += decision.backup
                self.copied_bytes += self.sizes[unit] if decision.backup else 0
                self._push(self.clock + self.sizes[unit] / self.speed[replica], replica, "done")
            case Replace(replica):
                self.alive[replica] += 1
                self._push(self.clock + RESTART_SECONDS, replica, "ready")
            case Fail(error):
                raise error
            case Finish():
                return True
            case _:
                pass
        return False

    def _push(self, when: float, replica: int, kind: str) -> None:
        process = self.alive[replica] if replica >= 0 else 0
        heapq.heappush(self.queue, (when, next(self.serial), replica, process, kind))


class Churn(Simulation):
    """Nodes of eight places that come and go: half are there at first, the others come within COMING seconds.

    Every LIFE seconds or so a node goes, and another comes: every second one gives notice. A replica is placed where
    there is room, loads for a while, and is as fast as its place.
    """

    def __init__(self, replicas: int, units: int, seed: int) -> None:
        super().__init__(replicas, units, 0.0, seed)
        self.rules = Rules(1_000, lowest=replicas // 4, highest=replicas)
        self.free: list[tuple[int, int]] = []  # node, place; the last first
        self.waiting: deque[tuple[int, int]] = deque()  # replica, and which start of it
        self.places: dict[int, tuple[int, int]] = {}
        self.speeds: dict[tuple[int, int], float] = {}
        self.nodes: list[int] = []
        self.going: set[int] = set()
        self.steps: list[tuple[float, float]] = []  # when the capacity changes, by how much
        self.events: deque[tuple[int, Tick | ReplicaPlaced | ReplicaReady | ReplicaDied | Notice]] = deque()
        self.number, self.notices, self.floor = itertools.count(), 0, 0.0
        self.labelled: dict[int, str] = {}  # by which replica
        self.capacity = 0.0
        self.lost: set[str] = set()  # units with a copy that never ended

    def bound(self) -> float:
        """When the places that were there, less one loading each, could have done the work; and no unit whose only copy
        was lost with its node can be done before it is labelled from its start.
        """
        left, rate, clock = float(sum(self.sizes.values())), 0.0, 0.0
        for when, change in sorted(self.steps):
            if rate * (when - clock) >= left:
                break
            left, clock, rate = left - rate * (when - clock), when, rate + change
        self.capacity = clock + left / rate
        return max(self.capacity, self.floor)

    def _begin(self) -> None:
        count = len(self.speed) // PLACES
        for _ in range(count // 2):
            self._add_node()
        for number in range(count - count // 2):
            self._push(COMING * (number + 1) / count, -1, "node")
        for _ in range(count):
            self._push(self.rng.expovariate(1 / LIFE), -1, "leave")
        for replica in range(self.rules.lowest):
            self._ask(replica)
        self.events.append((0, Tick()))

    def _next(self) -> Event | None:
        if self.events:
            process, event = self.events.popleft()
            return event if isinstance(event, Tick) or process == self.alive[event.replica] else None
        self.clock, _, replica, process, kind = heapq.heappop(self.queue)
        match kind:
            case "node":
                self._add_node()
            case "leave" if self.nodes:
                self._leave(self.nodes.pop(self.rng.randrange(len(self.nodes))))
            case "gone":
                self._remove_node(process)
            case "loaded" if process == self.alive[replica]:
                return ReplicaLoaded(replica)
            case "done" if process == self.alive[replica]:
                del self.labelled[replica]
                return UnitDone(replica)
        return None

    def _lose(self, replica: int) -> None:
        """The process behind the number is gone, and what it labelled."""
        self.alive[replica] += 1
        if (unit := self.labelled.pop(replica, None)) is not None:
            self.lost.add(unit)

    def _say(self, event: ReplicaPlaced | ReplicaReady | ReplicaDied | Notice) -> None:
        """One event more; unheard if another process has the number by then."""
        self.events.append((self.alive[event.replica], event))

    def _perform(self, decision: Decision) -> bool:
        match decision:
            case Grow(replica):
                self._ask(replica)
            case Replace(replica):
                self._end(replica)
                self._ask(replica)
            case Shrink(replica):
                self._end(replica)
            case Assign(replica, unit):
                if unit in self.lost and not decision.backup:  # no other copy of it is left
                    self.floor = max(self.floor, self.clock + self.sizes[unit] / BYTES_PER_SECOND)
                self.labelled[replica] = unit
                return super()._perform(decision)
            case Settle(replica):
                self._say(ReplicaReady(replica))
            case Starved():
                raise RuntimeError("no room in the simulation")
            case _:
                return super()._perform(decision)
        return False

    def _ask(self, replica: int) -> None:
        self.waiting.append((replica, self.alive[replica]))
        self._place()

    def _place(self) -> None:
        while self.free and self.waiting:
            replica, process = self.waiting.popleft()
            if process == self.alive[replica]:
                place = self.places[replica] = self.free.pop()
                self.speed[replica] = self.speeds[place]
                self._say(ReplicaPlaced(replica))
                self._push(self.clock + RESTART_SECONDS, replica, "loaded")

    def _end(self, replica: int) -> None:
        self._lose(replica)
        place = self.places.pop(replica, None)
        if place is not None and place[0] not in self.going:
            self.free.append(place)
            self._place()

    def _add_node(self) -> None:
        node = next(self.number)
        self.nodes.append(node)
        for place in range(PLACES):
            slow = SLOWNESS if self.rng.random() < SLOW else 1.0
            self.speeds[node, place] = BYTES_PER_SECOND / slow
            self.steps.append((self.clock + RESTART_SECONDS, BYTES_PER_SECOND / slow))
            self.free.append((node, place))
        self._place()

    def _leave(self, node: int) -> None:
        self.going.add(node)
        self.free = [place for place in self.free if place[0] != node]
        noticed = node % 2 == 0
        if noticed:
            for replica in [replica for replica, place in self.places.items() if place[0] == node]:
                self.notices += 1
                self._say(Notice(replica, NOTICE_SECONDS, "the node drains"))
        heapq.heappush(
            self.queue, (self.clock + (NOTICE_SECONDS if noticed else 0.0), next(self.serial), -1, node, "gone")
        )
        self._push(self.clock + COMING_AGAIN, -1, "node")
        self._push(self.clock + self.rng.expovariate(1 / LIFE), -1, "leave")

    def _remove_node(self, node: int) -> None:
        for place in range(PLACES):
            self.steps.append((self.clock, -self.speeds[node, place]))
        for replica in [replica for replica, place in self.places.items() if place[0] == node]:
            self._lose(replica)
            del self.places[replica]
            self.deaths += 1
            self._say(ReplicaDied(replica, "its node is gone"))
