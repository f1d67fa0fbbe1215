"""The labelling policy as a function, and in simulation."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import (
    Assign,
    Fail,
    Finish,
    GiveUp,
    Replace,
    ReplicaDied,
    ReplicaReady,
    Retry,
    Tick,
    UnitDone,
    UnitError,
)
from cluster.labelling.policy.state import Rules, State
from kdcore.errors import (
    ClusterError,
    ConfigError,
    IdentityMismatch,
    KDError,
    OutOfSpace,
    StorageUnavailable,
    TeacherError,
    TeacherUnavailable,
    UnitFailed,
)


def rules(max_attempts: int = 3, replicas: int = 1, **more: float) -> Rules:
    return Rules(max_attempts, lowest=replicas, highest=replicas, **more)


def test_units_are_given_out_in_order_and_the_last_answer_finishes() -> None:
    state = State.of(["a", "b"], rules(replicas=2))
    assert decide(state, ReplicaReady(0)) == [Assign(0, "a", 0)]
    assert decide(state, ReplicaReady(1)) == [Assign(1, "b", 0)]
    assert decide(state, UnitDone(1)) == []
    assert decide(state, UnitDone(0)) == [Finish()]


def test_nothing_to_do_finishes_with_the_first_replica() -> None:
    assert decide(State.of([]), ReplicaReady(0)) == [Finish()]


def test_a_death_gives_the_unit_to_a_waiting_replica_and_replaces_the_dead() -> None:
    state = State.of(["a"], rules(replicas=2, retry_seconds=0))
    decide(state, ReplicaReady(0))
    assert decide(state, ReplicaReady(1)) == []
    decisions = decide(state, ReplicaDied(0, "killed"))
    assert decisions == [Replace(0, "killed"), Retry("a", 0, 0.0, "killed"), Assign(1, "a", 1)]
    assert decide(state, UnitDone(1)) == [Finish()]


def test_a_unit_that_kills_every_replica_fails_by_name_after_its_attempts() -> None:
    state = State.of(["poison"], rules(2, retry_seconds=0))
    decide(state, ReplicaReady(0))
    assert decide(state, ReplicaDied(0, "killed"))[0] == Replace(0, "killed")
    assert decide(state, ReplicaReady(0)) == [Assign(0, "poison", 1)]
    decision = decide(state, ReplicaDied(0, "node lost"))[-1]
    assert isinstance(decision, Fail)
    assert isinstance(decision.error, UnitFailed)
    assert "poison" in str(decision.error)
    assert "node lost" in str(decision.error)


@pytest.mark.parametrize("error", [ConfigError("x"), IdentityMismatch("x"), TeacherError("x"), OutOfSpace("x")])
def test_an_error_about_the_whole_job_is_final_and_kept_as_it_is(error: KDError) -> None:
    state = State.of(["a", "b"])
    decide(state, ReplicaReady(0))
    assert decide(state, UnitError(0, error)) == [Fail(error)]


@pytest.mark.parametrize(
    ("error", "setting"),
    [(StorageUnavailable("503 of s3://x"), "labels.path"), (TeacherUnavailable("503 of s3://x"), "teacher.url")],
)
def test_what_does_not_answer_is_tried_again_after_a_wait_and_named_in_the_end(error: KDError, setting: str) -> None:
    state = State.of(["a"], rules(2, retry_seconds=1))
    decide(state, ReplicaReady(0))
    (retry,) = decide(state, UnitError(0, error), 10.0)
    assert isinstance(retry, Retry)
    wake = state.wake_at()
    assert wake is not None
    assert 10.5 <= wake <= 11.0
    assert decide(state, Tick(), wake - 0.01) == []
    assert decide(state, Tick(), wake) == [Assign(0, "a", 1)]
    decision = decide(state, UnitError(0, error), 12.0)[-1]
    assert isinstance(decision, Fail)
    assert isinstance(decision.error, UnitFailed)
    for text in ("a failed 2 times", "labels.max_attempts", "503 of s3://x", setting):
        assert text in str(decision.error)
    assert "memory" not in str(decision.error)


def test_a_storage_that_does_not_answer_a_replica_that_starts_is_said_as_it_is_in_the_end() -> None:
    error = StorageUnavailable("503 of s3://x")
    state = State.of(["a"], rules(2, retry_seconds=0))
    assert [type(decision) for decision in decide(state, UnitError(0, error))] == [Replace]
    assert decide(state, UnitError(0, error)) == [Fail(error)]


def test_replicas_that_die_while_loading_end_the_job_only_when_none_works() -> None:
    state = State.of(["a"], rules(2, replicas=2))
    assert decide(state, ReplicaDied(0, "killed"), 0.0) == []
    assert decide(state, Tick(), 0.4) == []
    assert [type(decision) for decision in decide(state, Tick(), 1.0)] == [Replace]
    assert decide(state, ReplicaDied(0, "killed"), 2.0) == [GiveUp(0, "killed")]
    decide(state, ReplicaDied(1, "killed"), 2.0)
    assert state.fleet.failed_starts[1] == 1
    assert [type(decision) for decision in decide(state, Tick(), 3.0)] == [Replace]
    decide(state, ReplicaReady(1), 4.0)
    assert 1 not in state.fleet.failed_starts
    assert decide(state, UnitDone(1), 5.0) == [Finish()]


def test_the_last_replica_that_cannot_start_ends_the_job() -> None:
    state = State.of(["a"], rules(1))
    (decision,) = decide(state, ReplicaDied(0, "killed"))
    assert isinstance(decision, Fail)
    assert isinstance(decision.error, ClusterError)


@given(units=st.integers(0, 40), replicas=st.integers(1, 8), seed=st.integers(0, 2**32), death=st.floats(0, 0.4))
def test_simulated_deaths_never_lose_or_double_a_unit(units: int, replicas: int, seed: int, death: float) -> None:
    simulate(units, replicas, seed, death)


def test_ten_thousand_replicas() -> None:
    simulate(15_000, 10_000, 0, 0.05)


def simulate(num_units: int, replicas: int, seed: int, death: float) -> None:
    """Random order of answers; every unit is done exactly once and no replica holds two."""
    rng = random.Random(seed)
    state = State.of([f"u{number}" for number in range(num_units)], rules(1_000, replicas, retry_seconds=0))
    holding: dict[int, str | None] = dict.fromkeys(range(replicas))
    active, done = list(range(replicas)), []
    for _ in range(100 * (num_units + replicas) + 100):
        position = rng.randrange(len(active))
        active[position], active[-1] = active[-1], active[position]
        replica = active.pop()
        unit = holding[replica]
        if rng.random() < death:
            decisions, holding[replica] = decide(state, ReplicaDied(replica, "killed")), None
        elif unit is None:
            decisions = decide(state, ReplicaReady(replica))
        else:
            done += [] if state.running[replica].lost else [unit]
            holding[replica] = None
            decisions = decide(state, UnitDone(replica))
        for decision in decisions:
            if isinstance(decision, Finish):
                assert sorted(done) == sorted(f"u{number}" for number in range(num_units))
                return
            if isinstance(decision, Assign):
                assert holding[decision.replica] is None
                holding[decision.replica] = decision.unit
            elif isinstance(decision, Retry):
                continue
            else:
                assert isinstance(decision, Replace)
            active.append(decision.replica)
    pytest.fail("the job did not end")
