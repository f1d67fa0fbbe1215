"""The labelling policy on units that lost a replica: a second copy near the end, and what copies may cost."""

import pytest

from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import Assign, Event, Notice, ReplicaDied, ReplicaReady, UnitDone, UnitError
from cluster.labelling.policy.state import Rules, State
from kdcore.errors import TeacherUnavailable
from tests.benchmarks import simulated_cluster


def near_the_end(pending: int = 0, spare_bytes: int = 3_000) -> State:
    """At 0 s, a byte a second: replica 0 begins `x` (1,000 bytes), 9 others 400 each, `pending` such units are left."""
    sizes = dict.fromkeys(("w0", "w1", "w2"), 2_000) | {"x": 1_000}
    sizes |= {f"s{number}": 400 for number in range(9 + pending)}
    state = State.of(list(sizes), Rules(9, retry_seconds=0, lowest=20, highest=20), sizes)
    decide(state, ReplicaReady(0), -6_000.0)
    for then in (-4_000.0, -2_000.0, 0.0):
        decide(state, UnitDone(0), then)
    for replica in range(1, 10):
        decide(state, ReplicaReady(replica), 0.0)
    assert state.running[0].unit == "x"
    state.spare_bytes = spare_bytes
    return state


def given(state: State, now: float, *events: Event) -> list[tuple[int, str, bool]]:
    """Who was given what, and whether as a copy."""
    decisions = [decision for event in events for decision in decide(state, event, now)]
    return [(found.replica, found.unit, found.backup) for found in decisions if isinstance(found, Assign)]


def with_idle(state: State, now: float) -> State:
    """Five more replicas, 10 to 14, that find nothing to do."""
    assert given(state, now, *(ReplicaReady(replica) for replica in range(10, 15))) == []
    return state


def test_a_unit_that_comes_back_near_the_end_is_given_to_two() -> None:
    for end in (Notice(0, 10.0, "the node drains"), ReplicaDied(0, "killed")):
        state = with_idle(near_the_end(), 100.0)
        assert given(state, 100.0, end) == [(10, "x", False), (11, "x", True)]
        assert given(state, 101.0, ReplicaReady(0)) == []  # two are enough


def test_when_one_of_two_is_lost_another_takes_its_place() -> None:
    state = with_idle(near_the_end(), 100.0)
    given(state, 100.0, ReplicaDied(0, "killed"))
    assert given(state, 300.0, ReplicaDied(10, "killed")) == [(12, "x", True)]
    assert state.holders["x"] == [11, 12]


def test_a_unit_that_could_be_lost_once_more_before_the_end_is_given_to_one() -> None:
    for pending, copies in ((60, [(12, "x", True)]), (120, [])):
        state = near_the_end(pending)  # a copy lost at its end and made anew, with a margin, is done at 2,350 s
        first = given(state, 100.0, ReplicaReady(10), ReplicaDied(0, "killed"), ReplicaReady(11))
        later = given(state, 100.0, ReplicaReady(12))
        assert [found for found in (*first, *later) if found[2]] == copies


def test_copies_against_a_loss_end_with_what_they_may_cost() -> None:
    state = with_idle(near_the_end(spare_bytes=1_500), 100.0)
    assert given(state, 100.0, ReplicaDied(0, "killed")) == [(10, "x", False), (11, "x", True)]
    assert given(state, 300.0, ReplicaDied(10, "killed")) == []
    assert given(state, 400.0, ReplicaDied(11, "killed")) == [(12, "x", False)]
    assert given(state, 2_000.0, ReplicaReady(0))[0] == (13, "x", True)  # it is late: that is another matter


def test_a_unit_that_raised_an_error_is_not_given_to_two_and_keeps_its_waits() -> None:
    state = with_idle(near_the_end(), 100.0)
    assert given(state, 100.0, UnitError(0, TeacherUnavailable("503"))) == [(10, "x", False)]


def test_nodes_that_go_soon_hardly_lengthen_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_cluster, "LIFE", 600.0)  # the largest unit takes 500 s; without copies: 1.16
    churn = simulated_cluster.Churn(100, 5_000, seed=5)
    churn.run()
    churn.bound()
    assert churn.clock < 1.1 * churn.capacity
    assert churn.copied_bytes < 0.01 * sum(churn.sizes.values())
