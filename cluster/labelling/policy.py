"""Which replica labels what next: a function of state and event. No Ray, no clock, no files.

The controller performs the decisions and reports what came of them; the same policy runs over real actors, over the
in-process twin of the tests, and over a simulation.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kdcore.errors import ClusterError, KDError, StorageUnavailable, UnitFailed

__all__ = [
    "Assign",
    "Decision",
    "Event",
    "Fail",
    "Finish",
    "Replace",
    "ReplicaDied",
    "ReplicaReady",
    "State",
    "UnitDone",
    "UnitError",
    "decide",
]


_MEMORY = "If the replica was killed for memory, lower labels.unit_bytes, teacher.batch_tokens or teacher.batch_size"
_STORAGE = "Wait until the storage of labels.path answers"


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

    A KDError is final, another try would raise it again; but a unit whose storage did not answer is tried again.
    """

    replica: int
    error: Exception


@dataclass(frozen=True)
class ReplicaDied:
    """A replica is gone: killed, out of memory, or its node was lost."""

    replica: int
    reason: str


Event = ReplicaReady | UnitDone | UnitError | ReplicaDied


@dataclass(frozen=True)
class Assign:
    """Give `unit` to `replica`; `attempt` counts from 0."""

    replica: int
    unit: str
    attempt: int


@dataclass(frozen=True)
class Replace:
    """Start another replica in the place of `replica`."""

    replica: int


@dataclass(frozen=True)
class Fail:
    """Stop and raise `error`."""

    error: KDError


@dataclass(frozen=True)
class Finish:
    """Every unit is done."""


Decision = Assign | Replace | Fail | Finish


@dataclass
class State:
    """What the policy remembers; only `decide` changes it."""

    pending: deque[str]
    max_attempts: int
    running: dict[int, str] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    idle: set[int] = field(default_factory=set)
    failed_starts: int = 0

    @classmethod
    def of(cls, units: Sequence[str], max_attempts: int) -> "State":
        """The state before the first event; `units` are those without a receipt, in order."""
        return cls(deque(units), max_attempts)


def decide(state: State, event: Event) -> list[Decision]:
    """Update `state` with `event` and say what to do now."""
    match event:
        case ReplicaReady(replica):
            state.failed_starts = 0
            return _next(state, replica)
        case UnitDone(replica):
            state.running.pop(replica)
            return _next(state, replica)
        case UnitError(replica, error):
            return _after_error(state, replica, error)
        case ReplicaDied(replica, reason):
            return _after_death(state, replica, reason)


def _next(state: State, replica: int) -> list[Decision]:
    if state.pending:
        unit = state.pending.popleft()
        state.running[replica] = unit
        state.attempts[unit] += 1
        return [Assign(replica, unit, state.attempts[unit] - 1)]
    state.idle.add(replica)
    # An idle replica stays: a unit whose replica dies may yet come back.
    return [] if state.running else [Finish()]


def _after_error(state: State, replica: int, error: Exception) -> list[Decision]:
    if isinstance(error, KDError) and not (isinstance(error, StorageUnavailable) and replica in state.running):
        return [Fail(error)]
    unit = state.running.pop(replica, None)
    if unit is None:
        return [Fail(ClusterError(f"replica {replica} could not start: {_describe(error)}"))]
    remedy = _STORAGE if isinstance(error, StorageUnavailable) else _MEMORY
    return _retry(state, unit, _describe(error), remedy) or _next(state, replica)


def _after_death(state: State, replica: int, reason: str) -> list[Decision]:
    unit = state.running.pop(replica, None)
    state.idle.discard(replica)
    if unit is None:
        state.failed_starts += 1
        if state.failed_starts >= state.max_attempts:
            return [Fail(_cannot_start(state.failed_starts, reason))]
        return [Replace(replica)]
    failure = _retry(state, unit, reason)
    if failure:
        return failure
    if state.idle:  # another replica waits: it takes the unit at once
        waiting = min(state.idle)
        state.idle.remove(waiting)
        return [Replace(replica), *_next(state, waiting)]
    return [Replace(replica)]


def _retry(state: State, unit: str, reason: str, remedy: str = _MEMORY) -> list[Decision]:
    """Queue the unit again, first; or a failure when its attempts are used up."""
    tried = state.attempts[unit]
    if tried < state.max_attempts:
        state.pending.appendleft(unit)
        return []
    return [
        Fail(
            UnitFailed(
                f"{unit} failed {tried} times (labels.max_attempts), last: {reason.rstrip('.')}. {remedy}; finished "
                "units are kept, so the same command goes on from here"
            )
        )
    ]


def _cannot_start(times: int, reason: str) -> ClusterError:
    return ClusterError(
        f"replicas died {times} times in a row before they were given work (labels.max_attempts), last: {reason}. "
        "Does the teacher fit into the memory of a node, times cluster.replicas?"
    )


def _describe(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
