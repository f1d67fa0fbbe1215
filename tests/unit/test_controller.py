"""The labelling controller over the in-process twin: faults in milliseconds, no Ray."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.labelling.controller import run_units
from cluster.labelling.events import EventLog
from cluster.labelling.policy.state import Rules, State
from cluster.labelling.twin import InProcessPool
from kdcore.errors import ClusterError, IdentityMismatch, LabelError, OutOfSpace, TeacherError, UnitFailed
from kdcore.planning.plan import WorkUnit
from kdcore.store import Receipt

UNITS = [WorkUnit(f"unit-{number:06d}", (), 10, f"digest{number}") for number in range(6)]
MANY = [WorkUnit(f"unit-{number:06d}", (), 1_000 + number, f"digest{number}") for number in range(30)]


class Fake:
    """Answers with receipts; `faults` maps a unit to the errors that its first attempts raise."""

    note = ""

    def __init__(self, faults: dict[str, list[Exception]]) -> None:
        self.faults = faults
        self.divisors: list[tuple[str, int]] = []

    def identity(self) -> dict[str, Any]:
        return {"teacher": "weights"}

    def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        self.divisors.append((unit.id, batch_divisor))
        errors = self.faults.get(unit.id, [])
        if errors:
            raise errors.pop(0)
        return Receipt(unit.id, f"data/{unit.id}-{attempt}.arrow", 1, 1, 1, "d", unit.digest)


def rules(replicas: int = 2, max_attempts: int = 3) -> Rules:
    return Rules(max_attempts, retry_seconds=0.001, lowest=replicas, highest=replicas)


def run(pool: InProcessPool, replicas: int = 2, max_attempts: int = 3, **more: Any) -> list[Receipt]:
    published: list[Receipt] = []
    run_units(UNITS, pool, rules(replicas, max_attempts), published.append, **more)
    return published


def fakes(**faults: list[Exception]) -> Callable[[], Fake]:
    shared = {name.replace("_", "-"): list(errors) for name, errors in faults.items()}
    return lambda: Fake(shared)


@pytest.mark.parametrize("replicas", [1, 2, 20])
def test_every_unit_is_published_once(replicas: int) -> None:
    published = run(InProcessPool(fakes()), replicas)
    assert sorted(receipt.unit for receipt in published) == [unit.id for unit in UNITS]


def test_deaths_are_made_good_and_attempts_have_names_of_their_own() -> None:
    pool = InProcessPool(fakes(), deaths={(UNITS[0].id, 0), (UNITS[0].id, 1), (UNITS[5].id, 0)})
    published = {receipt.unit: receipt.shard for receipt in run(pool)}
    assert sorted(published) == [unit.id for unit in UNITS]
    assert sorted(pool.died) == [UNITS[0].id, UNITS[0].id, UNITS[5].id]
    assert published[UNITS[0].id].endswith("-2.arrow")


def test_two_jobs_never_name_a_shard_alike() -> None:
    first, second = run(InProcessPool(fakes())), run(InProcessPool(fakes()))
    assert not {receipt.shard for receipt in first} & {receipt.shard for receipt in second}


def test_what_another_job_labelled_is_done_and_says_nothing_of_the_speed() -> None:
    theirs = Receipt(UNITS[1].id, f"data/{UNITS[1].id}-theirjob-0-00000000.arrow", 1, 1, 1, "d", UNITS[1].digest)
    states: list[State] = []
    found: list[Receipt] = []

    class Late(Fake):
        def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
            return theirs if unit == UNITS[1] else super().label(unit, attempt, batch_divisor)

    published = run(InProcessPool(lambda: Late({})), look=states.append, found=found.append)
    assert found == [theirs]
    assert sorted(receipt.unit for receipt in published) == [unit.id for unit in UNITS if unit != UNITS[1]]
    assert states[-1].finished == len(UNITS)
    assert len(states[-1].rates._recent) == len(published)


def test_a_job_that_continues_a_store_takes_units_in_an_order_of_its_own() -> None:
    def order(admitted: bool) -> list[str]:
        fake = Fake({})
        run_units(MANY, InProcessPool(lambda: fake), rules(1), lambda receipt: None, lambda identity: admitted)
        return [unit for unit, _ in fake.divisors]

    largest_first = [unit.id for unit in sorted(MANY, key=lambda unit: -unit.num_bytes)]
    assert order(admitted=False) == largest_first
    first, second = order(admitted=True), order(admitted=True)
    assert sorted(first) == sorted(second) == sorted(largest_first)
    assert first != second
    assert first != largest_first


def test_a_unit_that_always_kills_is_named_and_the_others_stay_published() -> None:
    published: list[Receipt] = []
    pool = InProcessPool(fakes(), deaths={(UNITS[3].id, number) for number in range(3)})
    with pytest.raises(UnitFailed, match=UNITS[3].id):
        run_units(UNITS, pool, rules(1), published.append)
    assert {receipt.unit for receipt in published} == {unit.id for unit in UNITS} - {UNITS[3].id}


def test_an_error_about_the_job_arrives_as_it_was_raised() -> None:
    error = TeacherError("unit-000001: weights changed")
    with pytest.raises(TeacherError) as caught:
        run(InProcessPool(fakes(unit_000001=[error])))
    assert caught.value is error


def test_an_error_about_a_unit_is_told_in_the_end_and_the_rest_is_published_and_all_is_recorded() -> None:
    published: list[Receipt] = []
    events: list[Any] = []
    pool = InProcessPool(fakes(unit_000001=[LabelError("document 'x.py': NaN")], unit_000002=[RuntimeError("odd")]))
    with pytest.raises(UnitFailed, match=r"1 of 6 units failed: unit-000001 LabelError: document 'x.py': NaN"):
        run_units(UNITS, pool, rules(), published.append, record=events.append)
    assert {receipt.unit for receipt in published} == {unit.id for unit in UNITS} - {"unit-000001"}
    told = [(event["event"], event.get("unit")) for event in events if event["event"] != "ReplicaReady"]
    assert told[-1] == ("Fail", None)
    assert ("UnitError", "unit-000001") in told
    assert ("Quarantine", "unit-000001") in told
    assert ("Retry", "unit-000002") in told
    assert len([event for event, _ in told if event != "Assign"]) == 5  # on a busy machine a late unit gets a backup


def test_out_of_memory_is_tried_again_with_half_the_batch() -> None:
    fake = Fake({"unit-000001": [RuntimeError("OutOfMemoryError: CUDA out of memory")] * 2})
    assert len(run(InProcessPool(lambda: fake), 1, max_attempts=1)) == len(UNITS)
    assert [divisor for unit, divisor in fake.divisors if unit == "unit-000001"] == [1, 2, 4]


def test_the_record_is_one_line_of_json_an_event(tmp_path: Path) -> None:
    record = EventLog(tmp_path / "run" / "events.jsonl")
    record({"event": "Retry", "unit": "a"})
    record({"event": "GiveUp", "replica": 1})
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["Retry", "GiveUp"]
    assert all(line["time"] > 0 for line in lines)


def test_an_event_that_finds_the_disk_full_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    record, limits = EventLog(tmp_path / "events.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    record({"event": "Retry", "unit": "a"})
    whole = (tmp_path / "events.jsonl").read_bytes()
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
    try:
        with pytest.raises(OutOfSpace, match=r"the disk is full: .*events\.jsonl"):
            record({"event": "Retry", "unit": "b"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "events.jsonl").read_bytes() == whole


def test_a_foreign_error_is_tried_again() -> None:
    published = run(InProcessPool(fakes(unit_000001=[RuntimeError("cuda out of memory")])))
    assert len(published) == len(UNITS)


def test_a_receipt_that_cannot_be_published_stops_the_job() -> None:
    def publish(receipt: Receipt) -> None:
        raise OutOfSpace("disk full")

    with pytest.raises(OutOfSpace):
        run_units(UNITS, InProcessPool(fakes()), rules(), publish)


def test_no_work_before_the_identity_is_admitted() -> None:
    def refuse(identity: Any) -> None:
        raise IdentityMismatch(str(identity))

    published: list[Receipt] = []
    with pytest.raises(IdentityMismatch, match="weights"):
        run_units(UNITS, InProcessPool(fakes()), rules(), published.append, refuse)
    assert published == []


def test_nothing_left_still_asks_for_the_identity() -> None:
    seen: list[Any] = []
    run_units([], InProcessPool(fakes()), rules(), lambda receipt: None, seen.append)
    assert seen == [{"teacher": "weights"}]


def test_a_teacher_that_cannot_load_is_reported() -> None:
    def broken() -> Fake:
        raise RuntimeError("no such device")

    with pytest.raises(ClusterError, match="no such device"):
        run(InProcessPool(broken))


def test_an_answer_for_another_unit_is_refused() -> None:
    class Confused(Fake):
        def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
            return super().label(UNITS[5], attempt)

    with pytest.raises(ClusterError, match=UNITS[5].id):
        run(InProcessPool(lambda: Confused({})))
