"""The labelling policy on bad units, late replicas and stuck ones."""

from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import (
    Assign,
    Fail,
    Finish,
    Quarantine,
    Replace,
    ReplicaDied,
    ReplicaPlaced,
    ReplicaReady,
    Retry,
    Tick,
    UnitDone,
    UnitError,
)
from cluster.labelling.policy.state import Rules, State
from kdcore.errors import DataError, LabelError, UnitFailed, UnreadableDocument


def warm(sizes: dict[str, int], replicas: int = 2) -> State:
    """A state that has seen three units of one second a byte, on replica 0; `sizes` are still to do."""
    rules = Rules(lowest=replicas, highest=replicas, load_seconds=100_000)
    state = State.of(["w0", "w1", "w2", *sizes], rules, {"w0": 1000, "w1": 1000, "w2": 1000} | sizes)
    for replica in range(1, replicas):
        decide(state, ReplicaPlaced(replica), -3000.0)
    decide(state, ReplicaReady(0), -3000.0)
    for time in (-2000.0, -1000.0):
        decide(state, UnitDone(0), time)
    return state


def test_the_largest_unit_is_first() -> None:
    state = State.of(["a", "b", "c"], Rules(lowest=3, highest=3), {"a": 1, "b": 3, "c": 2})
    given = [decide(state, ReplicaReady(number)) for number in range(3)]
    assert given == [[Assign(0, "b", 0)], [Assign(1, "c", 0)], [Assign(2, "a", 0)]]


def test_waits_double_within_a_bound_and_repeat() -> None:
    state = State.of([])
    waits = [state.delay("a", number) for number in range(1, 12)]
    assert waits == [state.delay("a", number) for number in range(1, 12)]
    assert all(2.0**number / 2 <= wait <= 2.0**number for number, wait in enumerate(waits[:5]))
    assert max(waits) <= 60
    assert state.delay("a", 1) != state.delay("b", 1)


def test_a_unit_with_an_error_of_its_own_is_quarantined_and_the_rest_goes_on() -> None:
    state = State.of(["a", "b", "c"])
    decide(state, ReplicaReady(0))
    decisions = decide(state, UnitError(0, LabelError("NaN")))
    assert decisions == [Quarantine("a", 0, "LabelError: NaN"), Assign(0, "b", 0)]
    decide(state, UnitDone(0))
    (last,) = decide(state, UnitError(0, UnreadableDocument("c.txt")))[1:]
    assert isinstance(last, Fail)
    assert isinstance(last.error, UnitFailed)
    assert "2 of 3 units failed: a LabelError: NaN; c UnreadableDocument: c.txt" in str(last.error)


def test_units_that_fail_one_after_another_before_any_is_done_end_the_job() -> None:
    state = State.of([f"u{number}" for number in range(9)])
    decide(state, ReplicaReady(0))
    for _ in range(2):
        assert not any(isinstance(found, Fail) for found in decide(state, UnitError(0, DataError("gone"))))
    last = decide(state, UnitError(0, DataError("gone")))[-1]
    assert isinstance(last, Fail)
    assert "as a whole" in str(last.error)


def test_the_same_failures_after_a_finished_unit_do_not_end_the_job() -> None:
    state = State.of([f"u{number}" for number in range(9)])
    decide(state, ReplicaReady(0))
    decide(state, UnitDone(0))
    for _ in range(5):
        assert not any(isinstance(found, Fail) for found in decide(state, UnitError(0, DataError("gone"))))


def test_memory_halves_the_batch_without_end_of_attempts_but_not_for_ever() -> None:
    state = State.of(["a"], Rules(1, retry_seconds=0))
    decide(state, ReplicaReady(0))
    error, divisors = RuntimeError("OutOfMemoryError: CUDA out of memory"), []
    for _ in range(6):
        divisors += [found.batch_divisor for found in decide(state, UnitError(0, error)) if isinstance(found, Assign)]
    assert divisors == [2, 4, 8, 16, 32, 64]
    assert isinstance(decide(state, UnitError(0, error))[-1], Fail)


def test_a_killing_for_memory_halves_the_batch_too() -> None:
    state = State.of(["a"], Rules(2, retry_seconds=0))
    decide(state, ReplicaReady(0))
    decide(state, ReplicaDied(0, "the node was running low on memory"))
    assert decide(state, ReplicaReady(0)) == [Assign(0, "a", 1, 2)]


def test_a_late_unit_gets_a_backup_and_the_first_answer_wins() -> None:
    state = warm({"x": 10})
    decide(state, ReplicaReady(1), -10.0)
    assert state.running[1].unit == "x"
    assert decide(state, UnitDone(0), 0.0) == []
    assert state.wake_at() == 5.0
    assert decide(state, Tick(), 4.0) == []
    assert decide(state, Tick(), 5.0) == [Assign(0, "x", 1, backup=True)]
    assert decide(state, UnitDone(0), 20.0) == [Finish()]
    assert state.running[1].lost


def test_at_the_end_a_third_replica_only_helps_a_late_backup_and_none_a_third() -> None:
    state = warm({"x": 10}, replicas=4)
    state.spare_bytes = 0
    decide(state, ReplicaReady(1), -10.0)
    decide(state, UnitDone(0), 10.0)
    assert decide(state, ReplicaReady(2), 24.0) == []
    assert state.wake_at() == 25.0
    assert decide(state, Tick(), 25.0) == [Assign(2, "x", 2, backup=True)]
    assert decide(state, ReplicaReady(3), 100.0) == []
    assert decide(state, ReplicaDied(0, "killed"), 100.0) == [
        Replace(0, "killed"),
        Retry("x", 0, 0.0, "killed"),
        Assign(3, "x", 3, backup=True),
    ]
    assert decide(state, UnitDone(3), 110.0) == [Finish()]


def test_a_loser_is_ignored_and_gets_other_work() -> None:
    state = warm({"x": 10, "y": 1_000}, replicas=3)
    decide(state, ReplicaReady(1), -1000.0)  # y, the larger
    decide(state, UnitDone(0), -1000.0)
    assert state.running[0].unit == "x"
    decide(state, ReplicaReady(2), -900.0)  # the backup of x
    assert state.running[2].unit == "x"
    decide(state, UnitDone(2), -899.0)
    finished = state.finished
    assert decide(state, UnitError(0, LabelError("too late")), -890.0) == []
    assert state.finished == finished
    assert not state.quarantined
    assert decide(state, UnitDone(1), 0.0) == [Finish()]


def test_a_failure_beside_a_backup_waits_for_the_other() -> None:
    state = warm({"x": 10})
    decide(state, ReplicaReady(1), -10.0)
    decide(state, UnitDone(0), 10.0)
    assert decide(state, ReplicaDied(1, "killed"), 11.0) == [Replace(1, "killed"), Retry("x", 1, 0.0, "killed")]
    assert decide(state, UnitDone(0), 20.0) == [Finish()]


def test_a_replica_that_never_answers_is_replaced_and_its_unit_tried_again() -> None:
    state = warm({"x": 40}, replicas=1)
    decide(state, UnitDone(0), 0.0)
    assert state.running[0].unit == "x"
    decide(state, Tick(), 601.0)  # 20 times 40 seconds are more than 600
    assert decide(state, Tick(), 799.0) == []
    decisions = decide(state, Tick(), 1_300.0)
    assert [type(found) for found in decisions] == [Replace, Retry]
    decide(state, ReplicaReady(0), 1_310.0)
    assert state.running[0].unit == "x"


def test_a_late_unit_larger_than_all_that_is_left_does_not_wait_for_the_end() -> None:
    for others, expected in ((1, Assign(0, "x", 1, backup=True)), (4, Assign(0, "s0", 0)), (10, Assign(0, "s0", 0))):
        state = warm({"x": 500} | {f"s{number}": 400 for number in range(others)})
        decide(state, ReplicaReady(1), -9_000.0)
        assert state.running[1].unit == "x"
        assert decide(state, UnitDone(0), 0.0) == [expected]


def test_a_late_unit_whose_backup_died_gets_another() -> None:
    state = warm({"x": 10})
    decide(state, ReplicaReady(1), -10.0)
    assert decide(state, UnitDone(0), 10.0) == [Assign(0, "x", 1, backup=True)]
    decide(state, ReplicaDied(0, "killed"), 11.0)
    assert decide(state, ReplicaReady(0), 12.0) == [Assign(0, "x", 2, backup=True)]


def test_work_that_comes_back_at_the_end_goes_to_the_replica_that_was_idle_first() -> None:
    state = warm({"x": 10}, replicas=4)
    state.spare_bytes = 0
    decide(state, ReplicaReady(1), -10.0)
    decide(state, UnitDone(0), -3.0)
    for replica in (2, 3):
        decide(state, ReplicaReady(replica), -2.0)
    assert decide(state, Tick(), 5.0) == [Assign(0, "x", 1, backup=True)]


def large_and_late(pending: int) -> State:
    """A hundred replicas: unit x (1,000 s) is late on replica 1, replica 0 just idle, `pending` units of 400 s left."""
    state = warm({"x": 1_000} | {f"s{number}": 400 for number in range(98 + pending)}, replicas=102)
    decide(state, ReplicaReady(1), -1_500.0)
    state.spare_bytes = 4_000
    assert state.running[1].unit == "x"
    for replica in range(2, 100):
        decide(state, ReplicaReady(replica), -1.0)
    return state


def test_a_backup_begins_in_time_to_be_lost_and_has_a_spare_if_it_did_not() -> None:
    state = large_and_late(pending=500)  # of 2,000 s: less than two tries of x with a margin
    assert decide(state, UnitDone(0), 0.0) == [Assign(0, "x", 1, backup=True)]
    assert decide(state, ReplicaReady(100), 1.0) == [Assign(100, "x", 2, backup=True)]
    (other,) = decide(state, ReplicaReady(101), 2.0)
    assert isinstance(other, Assign)
    assert not other.backup
    decide(state, ReplicaDied(1, "killed"), 3.0)  # the late one
    decide(state, ReplicaDied(100, "killed"), 4.0)
    assert decide(state, ReplicaReady(100), 5.0) == [Assign(100, "x", 3, backup=True)]
    decide(state, UnitDone(0), 1_000.0)
    assert "x" not in state.holders


def test_a_backup_that_could_be_lost_and_made_anew_waits_or_stays_alone() -> None:
    waits, alone = large_and_late(pending=700), large_and_late(pending=600)  # of 2,800 s and 2,400 s
    (first,) = decide(waits, UnitDone(0), 0.0)
    assert isinstance(first, Assign)
    assert not first.backup
    assert decide(alone, UnitDone(0), 0.0) == [Assign(0, "x", 1, backup=True)]
    (second,) = decide(alone, ReplicaReady(100), 1.0)
    assert isinstance(second, Assign)
    assert not second.backup
