"""The state machine that performs what the policy decides, over any pool of replicas."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

    def label(self, unit: WorkUnit, attempt: str) -> Receipt:
        """Label a unit and write its shard."""
        ...

    def identity(self) -> dict[str, Any]:
        """All of the store's identity but its input."""
        ...


class Pool(Protocol):
    """Replicas that label units; real actors or their in-process twin."""

    def start(self, replica: int) -> None:
        """Begin to load replica number `replica`; ReplicaReady follows."""
        ...

    def submit(self, replica: int, unit: WorkUnit, attempt: str) -> None:
        """Give a unit to an idle replica; UnitDone with a receipt, UnitError or ReplicaDied follows."""
        ...

    def wait(self) -> Outcome:
        """Block until something has happened."""
        ...


def run_units(
    units: Sequence[WorkUnit],
    pool: Pool,
    replicas: int,
    max_attempts: int,
    publish: Callable[[Receipt], object],
    admit: Callable[[Mapping[str, Any]], None] = lambda identity: None,
) -> None:
    """Label `units`; each receipt is published (journalled) before its replica gets its next unit.

    Every replica's identity is shown to `admit`, which raises when it is not the store's, before it gets any work;
    so one replica is loaded even when there is nothing left to label. Raises the KDError of a replica as it was,
    UnitFailed when a unit's attempts are used up, ClusterError when replicas cannot start.
    """
    by_id = {unit.id: unit for unit in units}
    state = policy.State.of(list(by_id), max_attempts)
    # Two jobs on one store, and two attempts of one job, never write the same file.
    job = uuid.uuid4().hex[:8]
    for replica in range(max(1, min(replicas, len(units)))):
        pool.start(replica)
    while True:
        outcome = pool.wait()
        if isinstance(outcome.event, policy.UnitDone):
            publish(_receipt_of(outcome, state, outcome.event.replica))
        elif isinstance(outcome.event, policy.ReplicaReady) and outcome.identity is not None:
            admit(outcome.identity)
        if _perform(policy.decide(state, outcome.event), pool, by_id, job):
            return


def _receipt_of(outcome: Outcome, state: policy.State, replica: int) -> Receipt:
    unit, receipt = state.running.get(replica), outcome.receipt
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
            case policy.Assign(replica, unit, attempt):
                pool.submit(replica, units[unit], f"{job}-{attempt}")
    return False
