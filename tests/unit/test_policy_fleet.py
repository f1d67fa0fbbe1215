"""The labelling policy on replicas that come and go: growth, notices, the probe, hangs while loading, no room."""

import pytest

from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import (
    Assign,
    Decision,
    Drain,
    Event,
    Fail,
    Finish,
    GiveUp,
    Grow,
    Notice,
    Replace,
    ReplicaDied,
    ReplicaLoaded,
    ReplicaPlaced,
    ReplicaReady,
    Retry,
    Settle,
    Short,
    Shrink,
    Starved,
    Tick,
    UnitDone,
)
from cluster.labelling.policy.state import Rules, State


def units(count: int) -> list[str]:
    return [f"u{number:04d}" for number in range(count)]


def elastic(count: int, lowest: int = 1, highest: int = 4, **more: float) -> State:
    return State.of(units(count), Rules(lowest=lowest, highest=highest, **more))


def told(state: State, *events: Event, now: float = 0.0) -> list[Decision]:
    return [decision for event in events for decision in decide(state, event, now)]


def grown(decisions: list[Decision]) -> list[int]:
    return [decision.replica for decision in decisions if isinstance(decision, Grow)]


def at_work(count: int, sizes: dict[str, int] | None = None, replicas: int = 2) -> State:
    """All replicas at work, after three units of one second each on the last replica."""
    state = State.of(["w0", "w1", "w2", *units(count)], Rules(lowest=replicas, highest=replicas), sizes)
    told(state, *(ReplicaReady(replica) for replica in range(replicas)))
    for second in (1.0, 2.0, 3.0):
        decide(state, UnitDone(replicas - 1), second)
    return state


def test_more_are_asked_for_at_once_but_no_more_than_there_are_units_for() -> None:
    assert grown(decide(elastic(20), Tick())) == [1, 2, 3]
    assert grown(decide(elastic(3), Tick())) == [1, 2]
    assert grown(decide(elastic(20, lowest=4), Tick())) == []


def test_only_so_many_wait_for_room_at_once_and_the_next_is_asked_for_when_one_has_it() -> None:
    state = elastic(2_000, lowest=1, highest=1_000)
    assert len(grown(decide(state, Tick()))) == 31
    assert grown(decide(state, Tick())) == []
    assert grown(decide(state, ReplicaPlaced(7))) == [32]


def test_those_without_room_are_not_waited_for_when_no_unit_is_left_for_them() -> None:
    state = elastic(4)
    told(state, Tick(), ReplicaReady(0))
    assert decide(state, UnitDone(0), 1.0) == [Assign(0, state.running[0].unit, 0), Shrink(3, "no unit is left for it")]
    decisions = told(state, UnitDone(0), UnitDone(0), UnitDone(0), now=9.0)
    assert decisions[-1] == Finish()
    assert {decision.replica for decision in decisions if isinstance(decision, Shrink)} == {1, 2}


def test_min_replicas_are_waited_for_although_no_unit_is_left_for_them() -> None:
    state = elastic(2, lowest=2, highest=2)
    decide(state, ReplicaReady(0))
    assert all(not isinstance(decision, Shrink) for decision in decide(state, UnitDone(0)))


def test_the_first_that_has_loaded_makes_the_probe_and_the_others_wait_for_it() -> None:
    state = elastic(9, lowest=3, highest=3)
    assert decide(state, ReplicaLoaded(2)) == [Settle(2)]
    assert told(state, ReplicaLoaded(0), ReplicaLoaded(1)) == []
    ready, *others = decide(state, ReplicaReady(2))
    assert isinstance(ready, Assign)
    assert others == [Settle(0), Settle(1)]
    assert isinstance(decide(state, ReplicaReady(0))[0], Assign)


def test_another_takes_over_when_the_one_that_makes_the_probe_dies() -> None:
    state = elastic(9, lowest=3, highest=3)
    told(state, ReplicaLoaded(0), ReplicaLoaded(1))
    assert decide(state, ReplicaDied(0, "killed")) == [Settle(1)]
    assert decide(state, Notice(1, 30.0, "SIGTERM")) == [Shrink(1, "SIGTERM"), Grow(1)]
    assert decide(state, ReplicaLoaded(2)) == [Settle(2)]


def test_a_unit_that_fits_into_the_notice_is_finished_and_its_replica_leaves() -> None:
    state = at_work(9)
    decide(state, UnitDone(1), 3.0)
    unit = state.running[1].unit
    assert decide(state, Notice(1, 30.0, "node drains"), 3.5) == [Drain(1, unit, "node drains")]
    left = decide(state, UnitDone(1), 4.0)
    assert left == [Shrink(1, "its last unit ended"), Grow(1)]
    assert state.finished == 5


def test_a_unit_that_does_not_fit_goes_to_another_at_once_and_has_not_failed() -> None:
    state = at_work(1, {"w0": 1, "w1": 1, "w2": 1, "u0000": 1000}, replicas=3)
    decide(state, UnitDone(1), 3.0)
    assert state.running[0].unit == "u0000"
    found = decide(state, Notice(0, 30.0, "node drains"), 3.0)
    assert found == [
        Shrink(0, "node drains"),
        Retry("u0000", 0, 0.0, "node drains"),
        Assign(2, "u0000", 1),
    ]
    assert not state.failures


def test_a_replica_that_does_not_end_in_time_or_dies_before_is_no_failure() -> None:
    for end in (Tick(), ReplicaDied(1, "node is gone")):
        state = at_work(9)
        unit = state.running[1].unit
        decide(state, Notice(1, 30.0, "node drains"), 3.0)
        assert state.wake_at() is not None
        found = decide(state, end, 33.0)
        assert [type(decision) for decision in found] == [Shrink, Retry, Grow]
        assert found[1] == Retry(unit, 1, 0.0, found[0].reason if isinstance(found[0], Shrink) else "")
        assert not state.failures
        assert not state.fleet.failed_starts


def test_a_replica_killed_for_memory_after_a_notice_has_its_unit_labelled_in_smaller_batches() -> None:
    state = at_work(9)
    unit = state.running[1].unit
    decide(state, Notice(1, 30.0, "SIGTERM"), 3.0)
    decide(state, ReplicaDied(1, "the node was running low on memory"), 4.0)
    assert decide(state, UnitDone(0), 5.0)[0] == Assign(0, unit, 1, 2)


def test_a_second_notice_only_shortens_the_first() -> None:
    state = at_work(9)
    told(state, Notice(1, None, "node drains"), now=3.0)
    told(state, Notice(1, 20.0, "SIGTERM"), Notice(1, 90.0, "node drains"), now=3.0)
    assert state.fleet.limit_of(1) == 23.0


def test_an_idle_replica_leaves_at_once_and_a_notice_of_nobody_is_nothing() -> None:
    state = elastic(1, lowest=2, highest=2)
    told(state, ReplicaReady(0), ReplicaReady(1))
    assert decide(state, Notice(1, 30.0, "SIGTERM")) == [Shrink(1, "SIGTERM")]
    assert decide(state, Notice(7, 30.0, "SIGTERM")) == []


def test_an_announced_death_is_no_failure_of_a_start() -> None:
    state = elastic(9, lowest=1, highest=1)
    decide(state, ReplicaPlaced(0))
    assert decide(state, ReplicaDied(0, "its node went", announced=True)) == [Shrink(0, "its node went"), Grow(0)]
    assert not state.fleet.failed_starts


def test_a_replica_that_hangs_while_it_loads_or_makes_the_probe_is_replaced_and_given_up_in_the_end() -> None:
    state = elastic(9, lowest=2, highest=2, load_seconds=100, max_attempts=2)
    told(state, ReplicaPlaced(0), ReplicaReady(1), now=0.0)
    assert decide(state, Tick(), 99.0) == []
    assert [type(decision) for decision in decide(state, Tick(), 100.0)] == [Replace]
    decide(state, ReplicaPlaced(0), 110.0)
    assert decide(state, ReplicaLoaded(0), 150.0) == [Settle(0)]
    (given_up,) = decide(state, Tick(), 250.0)
    assert isinstance(given_up, GiveUp)
    assert "cluster.load_seconds" in given_up.reason
    assert decide(state, ReplicaReady(0), 260.0) == []  # too late


def test_a_hang_before_any_unit_is_finished_is_noticed() -> None:
    state = elastic(9, lowest=1, highest=1, stuck_seconds=50)
    decide(state, ReplicaReady(0), 0.0)
    assert state.wake_at() == 50.0
    assert [type(decision) for decision in decide(state, Tick(), 50.0)] == [Replace, Retry]


def test_the_death_of_an_idle_replica_is_no_failed_start() -> None:
    state = elastic(1, lowest=2, highest=2)
    told(state, ReplicaReady(0), ReplicaReady(1))
    assert decide(state, ReplicaDied(1, "killed")) == [Replace(1, "killed")]
    assert not state.fleet.failed_starts


def test_too_little_room_is_said_once_and_none_for_long_ends_the_run() -> None:
    state = elastic(9, lowest=3, highest=3, starved_seconds=500)
    told(state, ReplicaReady(0), now=0.0)
    assert decide(state, Tick(), 59.0) == []
    assert decide(state, Tick(), 60.0) == [Short(1, 3)]
    assert decide(state, Tick(), 200.0) == []
    told(state, ReplicaDied(0, "node lost"), now=200.0)
    assert state.wake_at() is not None
    assert decide(state, Tick(), 699.0) == []
    assert decide(state, Tick(), 700.0) == [Starved(500.0)]


def test_a_replica_that_comes_back_is_not_starved() -> None:
    state = elastic(9, lowest=1, highest=1, starved_seconds=500)
    told(state, ReplicaReady(0), ReplicaDied(0, "node lost"), now=0.0)
    decide(state, ReplicaPlaced(0), 499.0)
    assert decide(state, Tick(), 1_000.0) == []


def test_no_more_are_asked_for_while_none_has_ever_started() -> None:
    state = elastic(9_000, lowest=1, highest=1_000, max_attempts=1)
    asked = [0, *grown(decide(state, Tick()))]
    decisions = told(state, *(ReplicaDied(replica, "no memory") for replica in asked))
    assert grown(decisions) == []
    assert isinstance(decisions[-1], Fail)
    assert sum(isinstance(decision, GiveUp) for decision in decisions) == len(asked) - 1


@pytest.mark.parametrize(
    "late", [ReplicaLoaded(0), ReplicaPlaced(0), ReplicaDied(0, "killed"), Notice(0, 1.0, "drain")]
)
def test_what_a_replica_says_after_its_start_failed_changes_nothing(late: Event) -> None:
    state = elastic(9, lowest=2, highest=2)
    told(state, ReplicaReady(1), ReplicaDied(0, "killed"))
    assert decide(state, late) == []
    assert [type(decision) for decision in decide(state, Tick(), 1.0)] == [Replace]
