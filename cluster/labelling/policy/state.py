"""What the labelling policy remembers of units and replicas; each step costs O(log n)."""

import heapq
import math
import random
import zlib
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.labelling.policy.fleet import Fleet, Shortage

__all__ = ["LONGEST_WAIT", "Rates", "Rules", "Run", "State"]

LONGEST_WAIT = 60.0
_SAMPLE, _ENOUGH = 101, 3
_OVERDUE, _MARGIN, _STUCK, _STUCK_SECONDS = 1.5, 1.25, 20.0, 600.0
_COPIES, _SPARES = 3, 0.01


@dataclass(frozen=True)
class Rules:
    """What the recipe sets of a run: `labels` and `cluster` say what each is."""

    max_attempts: int = 3
    retry_seconds: float = 1.0
    lowest: int = 1
    highest: int = 1
    load_seconds: float = 3600.0
    stuck_seconds: float = 3600.0
    starved_seconds: float = 600.0

    def at_most(self, units: int) -> "Rules":
        """With no more replicas than `units`, and at least one."""
        return replace(self, lowest=max(1, min(self.lowest, units)), highest=max(1, min(self.highest, units)))


@dataclass(slots=True)
class Run:
    """A unit on a replica. `lost`: another replica's answer came first, or the unit was given up meanwhile."""

    unit: str
    started: float
    serial: int
    lost: bool = False


class Rates:
    """The median seconds a byte of the last finished units: a slow replica or a long start does not move it far.

    `median` is None until a few units are finished.
    """

    def __init__(self) -> None:
        self.median: float | None = None
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, rate: float) -> None:
        """One more finished unit."""
        self._recent.append(rate)
        insort(self._sorted, rate)
        if len(self._recent) > _SAMPLE:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]
        if len(self._sorted) >= _ENOUGH:
            self.median = self._sorted[len(self._sorted) // 2]


@dataclass
class State:
    """What the policy remembers; only `decide` changes it."""

    rules: Rules
    fleet: Fleet
    shortage: Shortage
    sizes: Mapping[str, int]
    fresh: list[str]
    remaining: int
    finished: int = 0
    assigned: int = 0
    again: list[tuple[int, str]] = field(default_factory=list)
    waiting: list[tuple[float, str, int]] = field(default_factory=list)
    running: dict[int, Run] = field(default_factory=dict)
    holders: dict[str, list[int]] = field(default_factory=dict)
    idle: OrderedDict[int, None] = field(default_factory=OrderedDict)
    tries: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    divisors: dict[str, int] = field(default_factory=dict)
    orphans: set[str] = field(default_factory=set)  # units that lost a replica
    quarantined: dict[str, str] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    pending_bytes: int = 0
    spare_bytes: int = 0  # what copies may still cost that only guard against a loss; every copy is taken off
    overdue: list[tuple[float, int, int]] = field(default_factory=list)
    exposed: list[tuple[int, int, int]] = field(default_factory=list)
    stuck: list[tuple[float, int, int]] = field(default_factory=list)

    @classmethod
    def of(cls, units: Sequence[str], rules: Rules = Rules(), sizes: Mapping[str, int] | None = None) -> "State":
        """Before the first event, `rules.lowest` replicas asked for; `units` have no receipt, `sizes` are bytes."""
        known = sizes if sizes is not None else dict.fromkeys(units, 1)
        # Largest first, so that the last units are small and the replicas end together; taken from the end.
        fresh = sorted(units, key=lambda unit: -known[unit])
        fresh.reverse()
        fleet, shortage = Fleet(rules.lowest, rules.highest), Shortage(rules.starved_seconds)
        state = cls(rules, fleet, shortage, known, fresh, len(units))
        state.pending_bytes = sum(known[unit] for unit in units)
        state.spare_bytes = int(_SPARES * state.pending_bytes)
        return state

    def shuffle(self, seed: str) -> None:
        """Let what is not yet given out be taken in an order of `seed`: large units still first, within a factor of 2.

        At random, not from a place of its own: two jobs that go round in one order run side by side as soon as one has
        caught up. With R replicas elsewhere, the next of M units left is under way there with probability R / M at
        most, so that about R log(M / R) are labelled twice in all.
        """
        places = list(range(len(self.fresh)))
        random.Random(seed).shuffle(places)
        place = dict(zip(self.fresh, places, strict=True))
        self.fresh.sort(key=lambda unit: (self.sizes[unit].bit_length(), place[unit]))

    def unclaimed(self) -> int:
        """How many units no replica holds."""
        return len(self.fresh) + len(self.again) + len(self.waiting) - len(self.fleet.restarting)

    def has_pending(self) -> bool:
        """Whether a unit could be given out now."""
        return bool(self.fresh or self.again)

    def take(self) -> str:
        """The next unit: those that come back are first, as they may yet fail again."""
        unit = heapq.heappop(self.again)[1] if self.again else self.fresh.pop()
        self.pending_bytes -= self.sizes[unit]
        return unit

    def take_idle(self) -> int:
        """The replica that has waited longest: at the end of a job the slow ones are the last to be idle."""
        return self.idle.popitem(last=False)[0]

    def put_back(self, unit: str) -> None:
        """A unit that may be tried again now."""
        self.pending_bytes += self.sizes[unit]
        heapq.heappush(self.again, (-self.sizes[unit], unit))

    def delay(self, name: str, failures: int) -> float:
        """Twice as long after each failure, within a bound; the jitter depends on the name, so that a run repeats."""
        jitter = zlib.crc32(f"{name} {failures}".encode()) / 2**32
        return min(LONGEST_WAIT, self.rules.retry_seconds * 2.0 ** min(failures - 1, 30)) * (0.5 + 0.5 * jitter)

    def begin(self, replica: int, unit: str, now: float) -> int:
        """Note that `replica` labels `unit`; the number of this attempt, from 0."""
        self.assigned += 1
        self.running[replica] = Run(unit, now, self.assigned)
        size, rate, holders = self.sizes[unit], self.rates.median, self.holders.setdefault(unit, [])
        if holders:
            self.spare_bytes -= size
        elif unit in self.orphans:
            heapq.heappush(self.exposed, (-size, replica, self.assigned))
        holders.append(replica)
        heapq.heappush(self.overdue, (now + _OVERDUE * (rate or 0.0) * size, replica, self.assigned))
        if rate is None:
            heapq.heappush(self.stuck, (now + self.rules.stuck_seconds, replica, self.assigned))
        number = self.tries.get(unit, 0)
        self.tries[unit] = number + 1
        return number

    def end(self, replica: int) -> Run | None:
        """Take the unit from `replica`."""
        run = self.running.pop(replica, None)
        if run is not None and not run.lost:
            holders = self.holders[run.unit]
            holders.remove(replica)
            for other in holders:  # it has one copy less: it may need another
                heapq.heappush(self.exposed, (-self.sizes[run.unit], other, self.running[other].serial))
        return run

    def settle(self, unit: str) -> None:
        """A unit is done or given up: forget it, and ignore who else labels it."""
        self.remaining -= 1
        for replica in self.holders.pop(unit, ()):
            self.running[replica].lost = True
        self.orphans.discard(unit)
        for memory in (self.tries, self.failures, self.divisors):
            memory.pop(unit, None)

    def next_copy(self, now: float) -> str | None:
        """A unit that one more replica should label beside those that do, or it might end the job; the largest first.

        Looked at are units that are late or lost a replica.
        """
        rate = self.rates.median
        if rate is None or not self.exposed:
            return None
        end = now + self.pending_bytes * rate / (len(self.running) + len(self.idle))
        while self.exposed:
            _, replica, serial = self.exposed[0]
            run = self.running.get(replica)
            if run is not None and run.serial == serial and not run.lost:
                seconds = rate * self.sizes[run.unit]
                needed = self._needs_copy(run.unit, seconds, now, end)
                if needed is not None:  # its entry stays: it may need yet another; the others are smaller
                    return run.unit if needed else None
                if (overdue := run.started + _OVERDUE * seconds) > now:
                    heapq.heappush(self.overdue, (overdue, replica, serial))
            heapq.heappop(self.exposed)
        return None

    def _needs_copy(self, unit: str, seconds: float, now: float, end: float) -> bool | None:
        """Whether now, for a unit of so many seconds and a job that would end at `end`.

        None: not before it loses a replica, or is late again. That a copy is lost at its end, and
        made anew, is reckoned with while `spare_bytes` last.
        """
        holders, cheap = self.holders[unit], self.sizes[unit] <= self.spare_bytes
        if len(holders) >= _COPIES:
            return None
        overdue = now - _OVERDUE * seconds
        last = self.running[holders[-1]].started
        if last <= overdue:
            return not self.has_pending() or now + (2 if cheap else 1) * _MARGIN * seconds > end
        alone = len(holders) == 1 or self.running[holders[-2]].started <= overdue
        return True if alone and cheap and last + (1 + _MARGIN) * seconds > end else None

    def note_late(self, now: float) -> None:
        """Note whose time has passed since the last call."""
        rate = self.rates.median
        while rate is not None and self.overdue and self.overdue[0][0] <= now:
            _, replica, serial = entry = heapq.heappop(self.overdue)
            if self._is_current(entry):
                run = self.running[replica]
                overdue = run.started + _OVERDUE * rate * self.sizes[run.unit]
                if overdue > now:  # the rate has changed meanwhile
                    heapq.heappush(self.overdue, (overdue, replica, serial))
                    continue
                heapq.heappush(self.stuck, (self._stuck_at(run), replica, serial))
                if not run.lost:
                    heapq.heappush(self.exposed, (-self.sizes[run.unit], replica, serial))

    def take_stuck(self, now: float) -> int | None:
        """A replica that has been at its unit far too long."""
        while self.stuck and self.stuck[0][0] <= now:
            _, replica, serial = entry = heapq.heappop(self.stuck)
            if self._is_current(entry):
                current = self._stuck_at(self.running[replica])
                if current <= now:
                    return replica
                heapq.heappush(self.stuck, (current, replica, serial))
        return None

    def wake_at(self) -> float | None:
        """When the policy wants a Tick if nothing happens before."""
        for heap in (self.overdue, self.stuck):
            while heap and not self._is_current(heap[0]):
                heapq.heappop(heap)
        soonest = min(self.fleet.next_limit(), self.shortage.wake_at())
        for heap in (self.waiting, self.stuck, self.overdue if self.rates.median is not None else ()):
            if heap:
                soonest = min(soonest, heap[0][0])
        return soonest if soonest < math.inf else None

    def _is_current(self, entry: tuple[float, int, int]) -> bool:
        run = self.running.get(entry[1])
        return run is not None and run.serial == entry[2]

    def _stuck_at(self, run: Run) -> float:
        rate, longest = self.rates.median, self.rules.stuck_seconds
        if rate is None:
            return run.started + longest
        return run.started + max(min(_STUCK_SECONDS, longest), _STUCK * rate * self.sizes[run.unit])
