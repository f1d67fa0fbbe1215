"""Which replica labels what next: a function of state, event and time. No Ray, no clock, no files.

The controller performs the decisions and reports what came of them; the same policy runs over real actors, over the
in-process twin of the tests, and over a simulation.
"""

import heapq
from dataclasses import dataclass

from cluster.labelling.policy_state import State
from kdcore.errors import ClusterError, DataError, KDError, LabelError, StorageUnavailable, UnitFailed

__all__ = [
    "Assign",
    "Decision",
    "Event",
    "Fail",
    "Finish",
    "GiveUp",
    "Quarantine",
    "Replace",
    "ReplicaDied",
    "ReplicaReady",
    "Retry",
    "State",
    "Tick",
    "UnitDone",
    "UnitError",
    "decide",
]


_MEMORY = "If the replica was killed for memory, lower labels.unit_bytes, teacher.batch_tokens or teacher.batch_size"
_STORAGE = "Wait until the storage of labels.path answers"
_MEMORY_SIGNS = ("outofmemory", "out of memory", "memoryerror", "low on memory")
_LARGEST_DIVISOR = 64
_HOPELESS = 3
_NAMED = 20


@dataclass(frozen=True)
class ReplicaReady:
    """A replica has loaded its teacher."""

    replica: int


@dataclass(frozen=True)
class UnitDone:
    """A replica has written the shard of its unit."""

    replica: int


@dataclass(frozen=True)
class UnitError:
    """A replica is alive, but its unit (or its start) raised.

    A KDError about the unit gives up the unit, any other KDError ends the job; but a storage that did not answer, and
    what is not a KDError, is tried again.
    """

    replica: int
    error: Exception


@dataclass(frozen=True)
class ReplicaDied:
    """A replica is gone: killed, out of memory, or its node was lost."""

    replica: int
    reason: str


@dataclass(frozen=True)
class Tick:
    """Nothing but time has passed."""


Event = ReplicaReady | UnitDone | UnitError | ReplicaDied | Tick


@dataclass(frozen=True)
class Assign:
    """Give `unit` to `replica`; `attempt` counts from 0. A `backup` runs beside another replica that is late."""

    replica: int
    unit: str
    attempt: int
    batch_divisor: int = 1
    backup: bool = False


@dataclass(frozen=True)
class Replace:
    """Start another replica in the place of `replica`, which is ended if it still runs."""

    replica: int
    reason: str = ""


@dataclass(frozen=True)
class Retry:
    """`unit` failed and comes back after `seconds`. Nothing to perform: for the record."""

    unit: str
    replica: int
    seconds: float
    reason: str


@dataclass(frozen=True)
class Quarantine:
    """`unit` is given up in this run, the rest goes on. Nothing to perform: for the record."""

    unit: str
    replica: int
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """`replica` did not start in all its attempts; the others go on. Nothing to perform: for the record."""

    replica: int
    reason: str


@dataclass(frozen=True)
class Fail:
    """Stop and raise `error`."""

    error: KDError


@dataclass(frozen=True)
class Finish:
    """Every unit is done."""


Decision = Assign | Replace | Retry | Quarantine | GiveUp | Fail | Finish


def decide(state: State, event: Event, now: float = 0.0) -> list[Decision]:
    """Update `state` with `event`, which happened at `now` seconds, and say what to do now."""
    decisions: list[Decision] = []
    match event:
        case ReplicaReady(replica):
            state.failed_starts.pop(replica, None)
            state.idle[replica] = None
        case UnitDone(replica):
            _after_done(state, replica, now)
        case UnitError(replica, error):
            decisions = _after_error(state, replica, error, now)
        case ReplicaDied(replica, reason):
            decisions = _after_death(state, replica, reason, now)
        case Tick():
            decisions = _after_stuck(state, now)
    if any(isinstance(decision, Fail) for decision in decisions):
        return decisions
    return decisions + _woken(state, now) + _give_out(state, now)


def _woken(state: State, now: float) -> list[Decision]:
    """What has waited long enough."""
    found: list[Decision] = []
    while state.waiting and state.waiting[0][0] <= now:
        _, unit, replica = heapq.heappop(state.waiting)
        if not unit:
            found.append(Replace(replica, "its start is tried again"))
        elif unit in state.tries:
            state.put_back(unit)
    return found


def _give_out(state: State, now: float) -> list[Decision]:
    """Work for idle replicas; the end when there is none left anywhere. An idle replica stays: units may come back."""
    found: list[Decision] = []
    while state.idle and state.remaining and (late := state.take_late(now)) is not None:
        replica, divisor = state.idle.popitem()[0], state.divisors.get(late, 1)
        found.append(Assign(replica, late, state.begin(replica, late, now), divisor, backup=True))
    while state.idle and state.has_pending():
        replica, unit = state.idle.popitem()[0], state.take()
        divisor = state.divisors.get(unit, 1)
        found.append(Assign(replica, unit, state.begin(replica, unit, now), divisor))
    if not state.remaining:
        if state.quarantined:
            return [*found, Fail(_quarantine_error(state))]
        if state.idle or state.running or state.finished:
            return [*found, Finish()]
    return found


def _after_done(state: State, replica: int, now: float) -> None:
    run = state.end(replica)
    state.idle[replica] = None
    if run is None or run.lost:
        return
    state.rates.add((now - run.started) / max(1, state.sizes[run.unit]))
    state.finished += 1
    state.settle(run.unit)


def _after_error(state: State, replica: int, error: Exception, now: float) -> list[Decision]:
    loading = replica not in state.running
    about_unit = isinstance(error, LabelError | DataError) and not loading
    if isinstance(error, KDError) and not about_unit and not isinstance(error, StorageUnavailable):
        return [Fail(error)]
    if loading:
        return _failed_start(state, replica, _describe(error), error, now)
    run = state.end(replica)
    state.idle[replica] = None
    assert run is not None
    if run.lost:
        return []
    if about_unit:
        return _quarantine(state, run.unit, replica, _describe(error))
    remedy = _STORAGE if isinstance(error, StorageUnavailable) else _MEMORY
    if not isinstance(error, KDError) and _is_memory(_describe(error)) and _halve(state, run.unit):
        reason = f"{_describe(error)}; with 1/{state.divisors[run.unit]} of the batch"
        if not state.holders[run.unit]:
            state.put_back(run.unit)
        return [Retry(run.unit, replica, 0.0, reason)]
    return _retry(state, run.unit, replica, _describe(error), remedy, now)


def _after_death(state: State, replica: int, reason: str, now: float) -> list[Decision]:
    state.idle.pop(replica, None)
    run = state.end(replica)
    if run is None:
        return _failed_start(state, replica, reason, None, now)
    again = Replace(replica, reason)
    if run.lost:
        return [again]
    if _is_memory(reason):
        _halve(state, run.unit)
    return [again, *_retry(state, run.unit, replica, reason, _MEMORY, now)]


def _after_stuck(state: State, now: float) -> list[Decision]:
    """A process that was paused never answers: another one takes its place."""
    found: list[Decision] = []
    while (replica := state.take_stuck(now)) is not None:
        seconds = now - state.running[replica].started
        found += _after_death(state, replica, f"no answer for {seconds:.0f} s, far beyond the other units", now)
    return found


def _retry(state: State, unit: str, replica: int, reason: str, remedy: str, now: float) -> list[Decision]:
    """Let the unit wait for its next attempt; or give it up when its attempts are used up."""
    state.failures[unit] = tried = state.failures.get(unit, 0) + 1
    if state.holders[unit]:  # another replica still labels it
        return [Retry(unit, replica, 0.0, reason)]
    if tried >= state.max_attempts:
        told = f"failed {tried} times (labels.max_attempts), last: {reason.rstrip('.')}. {remedy}"
        return _quarantine(state, unit, replica, told)
    seconds = state.delay(unit, tried)
    heapq.heappush(state.waiting, (now + seconds, unit, replica))
    return [Retry(unit, replica, seconds, reason)]


def _quarantine(state: State, unit: str, replica: int, reason: str) -> list[Decision]:
    state.quarantined[unit] = reason
    state.settle(unit)
    found: list[Decision] = [Quarantine(unit, replica, reason)]
    if not state.finished and len(state.quarantined) >= _HOPELESS and state.remaining:
        found.append(Fail(_quarantine_error(state)))
    return found


def _quarantine_error(state: State) -> UnitFailed:
    names = list(state.quarantined)
    told = "; ".join(f"{name} {state.quarantined[name].rstrip('.')}" for name in names[:_NAMED])
    more = f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    if state.remaining:
        head = f"the first {len(names)} units that ended all failed, so the teacher or the data are wrong as a whole"
    else:
        head = f"{len(names)} of {len(names) + state.finished} units failed"
    return UnitFailed(f"{head}: {told}{more}. Finished units are kept, so the same command tries only the others again")


def _failed_start(state: State, replica: int, reason: str, error: Exception | None, now: float) -> list[Decision]:
    state.failed_starts[replica] = times = state.failed_starts.get(replica, 0) + 1
    if times < state.max_attempts:
        heapq.heappush(state.waiting, (now + state.delay(f"replica {replica}", times), "", replica))
        return []
    state.given_up.add(replica)
    if len(state.given_up) < state.replicas:
        return [GiveUp(replica, reason)]
    return [Fail(error if isinstance(error, KDError) else _cannot_start(times, reason))]


def _cannot_start(times: int, reason: str) -> ClusterError:
    return ClusterError(
        f"no replica could start, the last after {times} tries in a row (labels.max_attempts): {reason.rstrip('.')}. "
        "Does the teacher fit into the memory of a node, times cluster.replicas?"
    )


def _halve(state: State, unit: str) -> bool:
    divisor = state.divisors.get(unit, 1)
    if divisor < _LARGEST_DIVISOR:
        state.divisors[unit] = 2 * divisor
    return divisor < _LARGEST_DIVISOR


def _is_memory(text: str) -> bool:
    lowered = text.lower()
    return any(sign in lowered for sign in _MEMORY_SIGNS)


def _describe(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
