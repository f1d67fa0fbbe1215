"""What the labelling policy remembers of units and replicas; each step costs O(log n)."""

import heapq
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
_COPIES, _CHEAP = 3, 0.01


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
    """The median seconds a byte of the last finished units: a slow replica or a long start does not move it far."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, rate: float) -> None:
        """One more finished unit."""
        self._recent.append(rate)
        insort(self._sorted, rate)
        if len(self._recent) > _SAMPLE:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    def median(self) -> float | None:
        """None until a few units are finished."""
        return self._sorted[len(self._sorted) // 2] if len(self._sorted) >= _ENOUGH else None


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
    quarantined: dict[str, str] = field(default_factory=dict)
    rates: Rates = field(default_factory=Rates)
    pending_bytes: int = 0
    doubled_bytes: int = 0  # of units with several replicas, for each beyond the first
    overdue: list[tuple[float, int, int]] = field(default_factory=list)
    late: list[tuple[int, int, int]] = field(default_factory=list)
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
        return state

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
        holders = self.holders.setdefault(unit, [])
        self.doubled_bytes += self.sizes[unit] if holders else 0
        holders.append(replica)
        heapq.heappush(self.stuck, (self._stuck_at(unit, now), replica, self.assigned))
        if len(self.stuck) > 2 * len(self.running) + 1_000:  # entries of units that ended; amortised O(1)
            self.stuck = [entry for entry in self.stuck if self._is_current(entry, lost_too=True)]
            heapq.heapify(self.stuck)
        heapq.heappush(self.overdue, (self._overdue_at(unit, now) or now, replica, self.assigned))
        number = self.tries.get(unit, 0)
        self.tries[unit] = number + 1
        return number

    def end(self, replica: int) -> Run | None:
        """Take the unit from `replica`."""
        run = self.running.pop(replica, None)
        if run is not None and not run.lost:
            holders = self.holders[run.unit]
            holders.remove(replica)
            self.doubled_bytes -= self.sizes[run.unit] if holders else 0
            for other in holders:  # it was late once, and has one copy less: it may need another
                heapq.heappush(self.late, (-self.sizes[run.unit], other, self.running[other].serial))
        return run

    def settle(self, unit: str) -> None:
        """A unit is done or given up: forget it, and ignore who else labels it."""
        self.remaining -= 1
        holders = self.holders.pop(unit, [])
        self.doubled_bytes -= self.sizes[unit] * max(0, len(holders) - 1)
        for replica in holders:
            self.running[replica].lost = True
        for memory in (self.tries, self.failures, self.divisors):
            memory.pop(unit, None)

    def take_late(self, now: float) -> str | None:
        """A unit that has been late and should have one more replica, so as not to end the job; largest first."""
        rate = self.rates.median()
        if rate is None:
            return None
        self._find_late(now)
        end = now + self.pending_bytes * rate / (len(self.running) + len(self.idle))
        while self.late:
            _, replica, _ = entry = self.late[0]
            if self._is_current(entry) and len(self.holders[self.running[replica].unit]) < _COPIES:
                unit = self.running[replica].unit
                last = self.holders[unit][-1]
                run = self.running[last]
                is_late = (overdue := run.started + _OVERDUE * rate * self.sizes[unit]) <= now
                alone = is_late and not self.has_pending()
                if alone or self._sure_at(unit, rate, now if is_late else run.started, is_late) > end:
                    return unit  # its entry stays: it may need yet another
                if is_late:
                    return None
                heapq.heappush(self.overdue, (overdue, last, run.serial))
            heapq.heappop(self.late)
        return None

    def _find_late(self, now: float) -> None:
        """Note whose time has passed since the last call."""
        while self.overdue and (self.overdue[0][0] <= now or not self._is_current(self.overdue[0])):
            _, replica, serial = entry = heapq.heappop(self.overdue)
            if self._is_current(entry):
                run = self.running[replica]
                current = self._overdue_at(run.unit, run.started) or now
                if current <= now:
                    heapq.heappush(self.late, (-self.sizes[run.unit], replica, serial))
                else:  # the rate has changed meanwhile
                    heapq.heappush(self.overdue, (current, replica, serial))

    def _sure_at(self, unit: str, rate: float, begun: float, is_late: bool) -> float:
        """When `unit` is done by a copy that was begun, or would be, at `begun`: even if that one is lost at its end.

        With a loss is reckoned only where copies cost little of what is pending; a copy that is not late does without.
        """
        seconds = rate * self.sizes[unit]
        cheap = self.doubled_bytes + self.sizes[unit] <= _CHEAP * self.pending_bytes
        if is_late:
            return begun + (2 if cheap else 1) * _MARGIN * seconds
        return begun + (1 + _MARGIN) * seconds if cheap else begun

    def take_stuck(self, now: float) -> int | None:
        """A replica that has been at its unit far too long."""
        while self.stuck and self.stuck[0][0] <= now:
            _, replica, serial = entry = heapq.heappop(self.stuck)
            if self._is_current(entry, lost_too=True):
                run = self.running[replica]
                current = self._stuck_at(run.unit, run.started)
                if current <= now:
                    return replica
                heapq.heappush(self.stuck, (current, replica, serial))
        return None

    def wake_at(self) -> float | None:
        """When the policy wants a Tick if nothing happens before."""
        while self.stuck and not self._is_current(self.stuck[0], lost_too=True):
            heapq.heappop(self.stuck)
        times = [heap[0][0] for heap in (self.waiting, self.stuck) if heap]
        if self.idle and not self.has_pending() and self.overdue and self.rates.median() is not None:
            times.append(self.overdue[0][0])
        times += [when for when in (self.fleet.next_limit(), self.shortage.wake_at()) if when is not None]
        return min(times, default=None)

    def _is_current(self, entry: tuple[float, int, int], lost_too: bool = False) -> bool:
        run = self.running.get(entry[1])
        return run is not None and run.serial == entry[2] and (lost_too or not run.lost)

    def _overdue_at(self, unit: str, started: float) -> float | None:
        rate = self.rates.median()
        return None if rate is None else started + _OVERDUE * rate * self.sizes[unit]

    def _stuck_at(self, unit: str, started: float) -> float:
        rate, longest = self.rates.median(), self.rules.stuck_seconds
        if rate is None:
            return started + longest
        return started + max(min(_STUCK_SECONDS, longest), _STUCK * rate * self.sizes[unit])
