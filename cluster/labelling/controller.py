"""The state machine that performs what the policy decides, over any pool of replicas."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cluster.labelling import policy
from kdcore.data.plan import WorkUnit
from kdcore.errors import ClusterError
from kdcore.store.writer import Receipt

__all__ = ["Labeller", "Outcome", "Pool", "run_units"]


@dataclass(frozen=True)
class Outcome:
    """One event of a pool: with the receipt of a finished unit, or the identity of a replica that is ready."""

    event: policy.Event
    receipt: Receipt | None = None
    identity: Mapping[str, Any] | None = None


class Labeller(Protocol):
    """What a pool needs of a replica."""

    def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        """Label a unit, in batches of 1 / batch_divisor of their size, and write its shard."""
        ...

    def identity(self) -> dict[str, Any]:
        """All of the store's identity but its input."""
        ...


class Pool(Protocol):
    """Replicas that label units; real actors or their in-process twin."""

    def start(self, replica: int) -> None:
        """Begin to load replica number `replica`; ReplicaReady follows. One that is there is ended, unheard."""
        ...

    def submit(self, replica: int, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> None:
        """Give a unit to an idle replica; UnitDone with a receipt, UnitError or ReplicaDied follows."""
        ...

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """Block until something has happened; None after `timeout` seconds without."""
        ...


def run_units(
    units: Sequence[WorkUnit],
    pool: Pool,
    replicas: int,
    max_attempts: int,
    publish: Callable[[Receipt], object],
    admit: Callable[[Mapping[str, Any]], None] = lambda identity: None,
    retry_seconds: float = 1.0,
    record: Callable[[Mapping[str, Any]], None] = lambda event: None,
    look: Callable[[policy.State], None] = lambda state: None,
) -> None:
    """Label `units`; each receipt is published (journalled) before its replica gets its next unit.

    Every replica's identity is shown to `admit`, which raises when it is not the store's, before it gets any work;
    so one replica is loaded even when there is nothing left to label. Raises the KDError of a replica as it was,
    UnitFailed in the end when units failed for good, ClusterError when no replica can start. What is not routine is
    shown to `record`, as what becomes one line of JSON; `look` sees the state after every event.
    """
    by_id = {unit.id: unit for unit in units}
    sizes = {unit.id: unit.num_bytes for unit in units}
    started = max(1, min(replicas, len(units)))
    state = policy.State.of(list(by_id), max_attempts, sizes, started, retry_seconds)
    # Two jobs on one store, and two attempts of one job, never write the same file.
    job = uuid.uuid4().hex[:8]
    for replica in range(started):
        pool.start(replica)
    while True:
        wake = state.wake_at()
        outcome = pool.wait(None if wake is None else max(0.0, wake - time.monotonic())) or Outcome(policy.Tick())
        _record_event(outcome.event, state, record)
        if isinstance(outcome.event, policy.UnitDone):
            run = state.running.get(outcome.event.replica)
            if run is None or not run.lost:
                publish(_receipt_of(outcome, run and run.unit, outcome.event.replica))
        elif isinstance(outcome.event, policy.ReplicaReady) and outcome.identity is not None:
            admit(outcome.identity)
        decisions = policy.decide(state, outcome.event, time.monotonic())
        for decision in decisions:
            _record_decision(decision, record)
        look(state)
        if _perform(decisions, pool, by_id, job):
            return


def _record_event(event: policy.Event, state: policy.State, record: Callable[[Mapping[str, Any]], None]) -> None:
    match event:
        case policy.UnitError(replica, error):
            reason = f"{type(error).__name__}: {error}"
        case policy.ReplicaDied(replica, reason):
            pass
        case _:
            return
    run = state.running.get(replica)
    record({"event": type(event).__name__, "unit": run and run.unit, "replica": replica, "reason": reason})


def _record_decision(decision: policy.Decision, record: Callable[[Mapping[str, Any]], None]) -> None:
    match decision:
        case policy.Finish():
            return
        case policy.Assign() if not decision.backup and decision.batch_divisor == 1:
            return
        case policy.Fail(error):
            told = {"reason": f"{type(error).__name__}: {error}"}
        case policy.Assign() if decision.backup:
            told = {**asdict(decision), "reason": "another replica is late with it"}
        case _:
            told = asdict(decision)
    record({"event": type(decision).__name__, **told})


def _receipt_of(outcome: Outcome, unit: str | None, replica: int) -> Receipt:
    receipt = outcome.receipt
    if receipt is None or receipt.unit != unit:
        raise ClusterError(f"replica {replica} answered for {receipt and receipt.unit} while it was given {unit}")
    return receipt


def _perform(decisions: list[policy.Decision], pool: Pool, units: Mapping[str, WorkUnit], job: str) -> bool:
    """Whether the run is finished."""
    for decision in decisions:
        match decision:
            case policy.Fail(error):
                raise error
            case policy.Finish():
                return True
            case policy.Replace(replica):
                pool.start(replica)
            case policy.Assign(replica, unit, attempt, divisor):
                pool.submit(replica, units[unit], f"{job}-{attempt}", divisor)
            case policy.Retry() | policy.Quarantine() | policy.GiveUp():
                pass
    return False
