"""Which replica labels what next: a function of state, event and time. No Ray, no clock, no files.

The controller performs the decisions and reports what came of them; the same policy runs over real actors, over the
in-process twin of the tests, and over a simulation.
"""

import heapq

from cluster.labelling.policy.moves import (
    Assign,
    Decision,
    Event,
    Fail,
    Finish,
    Notice,
    Quarantine,
    ReplicaDied,
    ReplicaLoaded,
    ReplicaPlaced,
    ReplicaReady,
    Retry,
    Shared,
    Tick,
    UnitDone,
    UnitError,
)
from cluster.labelling.policy.replicas import (
    after_notice,
    depart,
    failed_start,
    loading_limit,
    resize,
    restart,
    settle,
    tell_shortage,
)
from cluster.labelling.policy.state import State
from kdcore.errors import DataError, KDError, LabelError, StorageUnavailable, TeacherUnavailable, UnitFailed

__all__ = ["decide"]

_MEMORY = "If the replica was killed for memory, lower labels.unit_bytes, teacher.batch_tokens or teacher.batch_size"
_REMEDIES = {
    StorageUnavailable: "Wait until the storage of labels.path answers",
    TeacherUnavailable: "Wait until the endpoint at teacher.url answers",
}
_MEMORY_SIGNS = ("outofmemory", "out of memory", "memoryerror", "low on memory")
_LARGEST_DIVISOR = 64
_HOPELESS = 3
_NAMED = 20


def decide(state: State, event: Event, now: float = 0.0) -> list[Decision]:
    """Update `state` with `event`, which happened at `now` seconds, and say what to do now."""
    found = more = _react(state, event, now)
    for step in (_after_limits, _woken, _give_out, settle, resize, tell_shortage):
        if more and any(isinstance(decision, (Fail, Finish)) for decision in more):
            break
        more = step(state, now)
        found += more
    return found


def _react(state: State, event: Event, now: float) -> list[Decision]:
    match event:
        case UnitDone(replica, found):
            return _after_done(state, replica, found, now)
        case Shared(seed):
            state.shuffle(seed)
        case ReplicaPlaced(replica):
            _after_placed(state, replica, now)
        case ReplicaLoaded(replica):
            _after_loaded(state, replica)
        case ReplicaReady(replica):
            _after_ready(state, replica)
        case UnitError(replica, error):
            return _after_error(state, replica, error, now)
        case ReplicaDied(replica, reason, announced):
            return _after_death(state, replica, reason, now, announced)
        case Notice():
            return after_notice(state, event, now)
        case Tick():
            pass
    return []


def _after_placed(state: State, replica: int, now: float) -> None:
    if not state.fleet.is_out(replica):
        state.fleet.asked.pop(replica, None)
        state.fleet.loading[replica] = None
        loading_limit(state, replica, now)


def _after_loaded(state: State, replica: int) -> None:
    if not state.fleet.is_out(replica):
        state.fleet.forget(replica)
        state.fleet.loaded[replica] = None


def _after_ready(state: State, replica: int) -> None:
    if state.fleet.is_out(replica):
        return
    state.fleet.forget(replica)
    state.fleet.failed_starts.pop(replica, None)
    state.fleet.settled = True
    state.idle[replica] = None


def _free(state: State, replica: int, reason: str = "its last unit ended") -> list[Decision]:
    """A replica without a unit: it waits for another, or leaves if it was told to."""
    if replica in state.fleet.leaving:
        return depart(state, replica, reason)
    state.idle[replica] = None
    return []


def _woken(state: State, now: float) -> list[Decision]:
    """What has waited long enough."""
    found: list[Decision] = []
    while state.waiting and state.waiting[0][0] <= now:
        _, unit, replica = heapq.heappop(state.waiting)
        if not unit and replica in state.fleet.restarting:
            found.append(restart(state, replica, "its start is tried again"))
        elif unit in state.tries:
            state.put_back(unit)
    return found


def _give_out(state: State, now: float) -> list[Decision]:
    """Work for idle replicas; the end when there is none left anywhere. An idle replica stays: units may come back."""
    found: list[Decision] = []
    while state.idle and state.remaining:
        unit = state.next_copy(now)
        backup = unit is not None
        if unit is None:
            if not state.has_pending():
                break
            unit = state.take()
        replica = state.take_idle()
        attempt = state.begin(replica, unit, now)
        found.append(Assign(replica, unit, attempt, state.divisors.get(unit, 1), backup))
    if not state.remaining:
        if state.quarantined:
            return [*found, Fail(_quarantine_error(state))]
        if state.idle or state.running or state.finished:
            return [*found, Finish()]
    return found


def _after_done(state: State, replica: int, found: bool, now: float) -> list[Decision]:
    run = state.end(replica)
    if run is not None and not run.lost:
        if not found:  # how long an answer takes that was there says nothing of how long units take
            state.rates.add((now - run.started) / max(1, state.sizes[run.unit]))
        state.finished += 1
        state.settle(run.unit)
    return _free(state, replica)


def _after_error(state: State, replica: int, error: Exception, now: float) -> list[Decision]:
    if state.fleet.is_out(replica):
        return []
    loading = replica not in state.running
    about_unit = isinstance(error, LabelError | DataError) and not loading
    if isinstance(error, KDError) and not about_unit and not isinstance(error, StorageUnavailable | TeacherUnavailable):
        return [Fail(error)]
    if loading:
        return failed_start(state, replica, _describe(error), error, now)
    run = state.end(replica)
    assert run is not None
    freed = _free(state, replica)
    return freed if run.lost else _failed_unit(state, run.unit, replica, error, now) + freed


def _failed_unit(state: State, unit: str, replica: int, error: Exception, now: float) -> list[Decision]:
    reason = _describe(error)
    if isinstance(error, LabelError | DataError):
        return _quarantine(state, unit, replica, reason)
    remedy = _REMEDIES.get(type(error), _MEMORY)
    if not isinstance(error, KDError) and _is_memory(reason) and _halve(state, unit):
        if not state.holders[unit]:
            state.put_back(unit)
        return [Retry(unit, replica, 0.0, f"{reason}; with 1/{state.divisors[unit]} of the batch")]
    return _retry(state, unit, replica, reason, remedy, now)


def _after_death(state: State, replica: int, reason: str, now: float, announced: bool = False) -> list[Decision]:
    if state.fleet.is_out(replica):
        return []
    if announced or replica in state.fleet.leaving:
        at = state.running.get(replica)
        if at is not None and not at.lost and _is_memory(reason):
            _halve(state, at.unit)
        return depart(state, replica, reason)
    was_idle = replica in state.idle
    state.idle.pop(replica, None)
    run = state.end(replica)
    if run is None and not was_idle:
        return failed_start(state, replica, reason, None, now)
    again = restart(state, replica, reason)
    if run is None or run.lost:
        return [again]
    state.orphans.add(run.unit)
    if _is_memory(reason):
        _halve(state, run.unit)
    return [again, *_retry(state, run.unit, replica, reason, _MEMORY, now)]


def _after_limits(state: State, now: float) -> list[Decision]:
    """A process that was paused never answers: another one takes its place. One that was to leave in time is let go."""
    found: list[Decision] = []
    state.note_late(now)
    while (replica := state.take_stuck(now)) is not None:
        seconds = now - state.running[replica].started
        told = f"no answer for {seconds:.0f} s, far beyond the other units or labels.stuck_seconds"
        found += _after_death(state, replica, told, now)
    while (replica := state.fleet.take_expired(now)) is not None:
        if replica in state.fleet.leaving:
            found += depart(state, replica, "its unit did not end in time")
        else:
            told = f"not loaded after {state.rules.load_seconds:g} s (cluster.load_seconds)"
            found += failed_start(state, replica, told, None, now, wait=False)
    return found


def _retry(state: State, unit: str, replica: int, reason: str, remedy: str, now: float) -> list[Decision]:
    """Let the unit wait for its next attempt; or give it up when its attempts are used up."""
    state.failures[unit] = tried = state.failures.get(unit, 0) + 1
    if state.holders[unit]:  # another replica still labels it
        return [Retry(unit, replica, 0.0, reason)]
    if tried >= state.rules.max_attempts:
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
