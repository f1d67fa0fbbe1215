"""The state machine that performs what the policy decides, over any pool of replicas."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cluster.labelling.policy import moves
from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.state import Rules, State
from kdcore.errors import ClusterError, ResourceError
from kdcore.planning.plan import Unit
from kdcore.store.layout import DATA
from kdcore.store.writer import Receipt

__all__ = ["Labeller", "Outcome", "Pool", "run_units"]

_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """One event of a pool: with the receipt of a finished unit, or the identity of a replica that is ready."""

    event: moves.Event
    receipt: Receipt | None = None
    identity: Mapping[str, Any] | None = None


class Labeller(Protocol):
    """What a pool needs of a replica."""

    @property
    def note(self) -> str:
        """What a person should know of it before it begins; "" for nothing."""
        ...

    def label(self, unit: Any, attempt: str, batch_divisor: int = 1) -> Receipt:
        """Label a unit, in batches of 1 / batch_divisor of their size, and write its shard; or find its receipt."""
        ...

    def identity(self) -> dict[str, Any]:
        """All of the store's identity but its input; the first call settles the codec, which may take a probe."""
        ...


class Pool(Protocol):
    """Replicas that label units; real actors or their in-process twin."""

    def start(self, replica: int) -> None:
        """Begin to load replica number `replica`; ReplicaPlaced, ReplicaLoaded follow. One there is ended, unheard."""
        ...

    def settle(self, replica: int) -> None:
        """Let a loaded replica settle the store's codec; ReplicaReady with its identity follows."""
        ...

    def end(self, replica: int) -> None:
        """End a replica, unheard, and give its room back."""
        ...

    def submit(self, replica: int, unit: Unit, attempt: str, batch_divisor: int = 1) -> None:
        """Give a unit to an idle replica; UnitDone with a receipt, UnitError or ReplicaDied follows."""
        ...

    def shortage(self, seconds: float) -> ResourceError:
        """What to say when there has been no room for one replica for so long."""
        ...

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Block until something has happened; None after `timeout` seconds without."""
        ...


def run_units(
    units: Sequence[Unit],
    pool: Pool,
    rules: Rules,
    publish: Callable[[Receipt], object],
    admit: Callable[[Mapping[str, Any]], bool | None] = lambda identity: None,
    record: Callable[[Mapping[str, Any]], None] = lambda event: None,
    look: Callable[[State], None] = lambda state: None,
    found: Callable[[Receipt], object] = lambda receipt: None,
) -> None:
    """Label `units`; each receipt is published (journalled) before its replica gets its next unit.

    Every replica's identity is shown to `admit`, which raises when it is not the store's, before it gets any work;
    so one replica is loaded even when there is nothing left to label. When `admit` says that this job is not the one
    that began the store, the units are taken in an order of this job's own. A unit that another job labelled meanwhile
    is shown to `found`. Raises the KDError of a replica as it was,
    UnitFailed in the end when units failed for good, ClusterError when no replica can start, ResourceError when the
    cluster lost its room for all of them. What is not routine is shown to `record`, as what becomes one line of JSON;
    `look` sees the state after every event, and now and then without any.
    """
    by_id = {unit.id: unit for unit in units}
    state = State.of(list(by_id), rules.at_most(len(units)), {unit.id: unit.num_bytes for unit in units})
    # Two jobs on one store, and two attempts of one job, never write the same file.
    job = uuid.uuid4().hex[:8]
    for replica in list(state.fleet.asked):
        pool.start(replica)
    outcome = Outcome(moves.Tick())
    while True:
        _record_event(outcome.event, state, record)
        event = outcome.event
        if isinstance(event, moves.UnitDone):
            event = _take_receipt(outcome, event.replica, state, job, publish, found)
        decisions: list[moves.Decision] = []
        if isinstance(event, moves.ReplicaReady) and outcome.identity is not None and admit(outcome.identity):
            decisions = decide(state, moves.Shared(job), time.monotonic())
        decisions += decide(state, event, time.monotonic())
        for decision in decisions:
            _record_decision(decision, record)
        look(state)
        if _perform(decisions, pool, by_id, job):
            return
        wake = state.wake_at()
        seconds = _LOOK_SECONDS if wake is None else min(_LOOK_SECONDS, max(0.0, wake - time.monotonic()))
        outcome = pool.wait(seconds) or Outcome(moves.Tick())


def _take_receipt(
    outcome: Outcome,
    replica: int,
    state: State,
    job: str,
    publish: Callable[[Receipt], object],
    found: Callable[[Receipt], object],
) -> moves.UnitDone:
    """Journal the receipt of a finished unit, unless it is another job's or the answer came too late; what happened."""
    run = state.running.get(replica)
    if run is not None and run.lost:
        return moves.UnitDone(replica)
    receipt = outcome.receipt
    if receipt is None or receipt.unit != (run and run.unit):
        raise ClusterError(
            f"replica {replica} answered for {receipt and receipt.unit} while it was given {run and run.unit}"
        )
    ours = is_of(receipt, job)
    (publish if ours else found)(receipt)
    return moves.UnitDone(replica, found=not ours)


def is_of(receipt: Receipt, job: str) -> bool:
    """Whether an attempt of this job wrote the shard, as its name says."""
    return receipt.shard.startswith(f"{DATA}/{receipt.unit}-{job}-")


def _record_event(event: moves.Event, state: State, record: Callable[[Mapping[str, Any]], None]) -> None:
    match event:
        case moves.UnitError(replica, error):
            told = {"reason": f"{type(error).__name__}: {error}"}
        case moves.ReplicaDied(replica, reason):
            told = {"reason": reason}
        case moves.Notice(replica, seconds, reason):
            told = {"seconds": seconds, "reason": reason}
        case moves.ReplicaLoaded(replica, note) if note:
            told = {"note": note}
        case moves.ReplicaReady(replica):
            record({"event": "ReplicaReady", "replica": replica})
            return
        case _:
            return
    run = state.running.get(replica)
    record({"event": type(event).__name__, "unit": run and run.unit, "replica": replica, **told})


def _record_decision(decision: moves.Decision, record: Callable[[Mapping[str, Any]], None]) -> None:
    match decision:
        case moves.Finish() | moves.Settle():
            return
        case moves.Assign() if not decision.backup and decision.batch_divisor == 1:
            return
        case moves.Fail(error):
            told = {"reason": f"{type(error).__name__}: {error}"}
        case moves.Assign() if decision.backup:
            told = {**asdict(decision), "reason": "another replica is late with it, or was lost"}
        case _:
            told = asdict(decision)
    record({"event": type(decision).__name__, **told})


def _perform(decisions: list[moves.Decision], pool: Pool, units: Mapping[str, Unit], job: str) -> bool:
    """Whether the run is finished."""
    for decision in decisions:
        match decision:
            case moves.Fail(error):
                raise error
            case moves.Starved(seconds):
                raise pool.shortage(seconds)
            case moves.Finish():
                return True
            case moves.Replace(replica) | moves.Grow(replica):
                pool.start(replica)
            case moves.Shrink(replica):
                pool.end(replica)
            case moves.Settle(replica):
                pool.settle(replica)
            case moves.Assign(replica, unit, attempt, divisor):
                pool.submit(replica, units[unit], f"{job}-{attempt}", divisor)
            case moves.Retry() | moves.Quarantine() | moves.GiveUp() | moves.Drain() | moves.Short():
                pass
    return False
