"""What an operator sees of a labelling job whose units fail: the log's lines and the metrics' counts."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.labelling.controller import run_units
from cluster.labelling.policy.state import Rules
from cluster.labelling.tally import Tally
from cluster.labelling.twin import InProcessPool
from cluster.labelling.watch import Watch
from cluster.progress import ProgressReport
from kdcore.errors import LabelError, StorageUnavailable, UnitFailed
from kdcore.planning.plan import WorkUnit
from kdcore.store import Receipt

UNITS = [WorkUnit(f"unit-{number:06d}", (), 10, f"digest{number}") for number in range(6)]


class Labels:
    def __init__(self, faults: dict[str, list[Exception]], note: str = "") -> None:
        self.faults, self.note = faults, note

    def identity(self) -> dict[str, Any]:
        return {}

    def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        if self.faults.get(unit.id):
            raise self.faults[unit.id].pop(0)
        return Receipt(unit.id, f"data/{unit.id}-{attempt}.arrow", 1, 7, 20, "d", unit.digest)


def watching(path: Path, clock: Callable[[], float] = time.monotonic) -> tuple[Watch, Tally, io.StringIO]:
    stream = io.StringIO()
    sizes = {unit.id: unit.num_bytes for unit in UNITS}
    tally = Tally(len(UNITS), 0)
    progress = ProgressReport("labels", sum(sizes.values()), "B", stream=stream, clock=clock, interval_seconds=0)
    return Watch("run", path, sizes, tally, progress, clock=clock), tally, stream


class Metrics:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, values or named))


def test_retries_given_up_units_and_what_is_done_are_counted_and_logged(tmp_path: Path) -> None:
    (watch, tally, stream), metrics = watching(tmp_path / "run" / "events.jsonl"), Metrics()
    watch._metrics = metrics  # pyright: ignore[reportAttributeAccessIssue]
    faults = {UNITS[4].id: [LabelError("NaN")], UNITS[5].id: [StorageUnavailable("503")]}
    pool, rules = InProcessPool(lambda: Labels(faults)), Rules(retry_seconds=0.01, lowest=2, highest=2)
    with pytest.raises(UnitFailed, match=UNITS[4].id):
        run_units(UNITS, pool, rules, watch.unit_done, record=watch.record, look=watch.look)
    counted = [name for name, _ in metrics.calls]
    assert counted.count("unit_done") == 5
    assert counted.count("unit_retried") == 1
    assert counted.count("unit_quarantined") == 1
    assert ("unit_done", 7) in [(name, values[0].labels) for name, values in metrics.calls if name == "unit_done"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert {"Retry", "Quarantine", "UnitError"} <= {line["event"] for line in lines}
    assert (tally.done, tally.tokens, tally.retried, tally.failed) == (5, 35, 1, 1)
    watch._progress.tick()
    told = stream.getvalue().splitlines()[-1]
    assert "units 5 of 6, 1 retried, 1 failed; replicas " in told
    assert f"last failure {UNITS[5].id}: StorageUnavailable: 503" in told


def test_what_replicas_say_of_themselves_is_said_and_logged_once(tmp_path: Path) -> None:
    watch, _, _ = watching(tmp_path / "events.jsonl")
    said: list[str] = []
    watch._on_note = said.append
    made = iter([Labels({}, "slow here"), Labels({}, "slow here"), Labels({})])
    rules = Rules(lowest=3, highest=3)
    run_units(UNITS, InProcessPool(lambda: next(made)), rules, lambda receipt: None, record=watch.record)
    assert said == ["teacher: slow here"]
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["note"] for line in lines if line["event"] == "ReplicaLoaded"] == ["slow here"]


def test_gauges_are_set_again_after_a_while_though_nothing_changed(tmp_path: Path) -> None:
    now = [0.0]
    (watch, _, _), metrics = watching(tmp_path / "events.jsonl", lambda: now[0]), Metrics()
    watch._metrics = metrics  # pyright: ignore[reportAttributeAccessIssue]
    states = []

    def look(state: Any) -> None:
        states.append(state)
        watch.look(state)

    run_units(UNITS, InProcessPool(lambda: Labels({})), Rules(lowest=2, highest=2), lambda receipt: None, look=look)
    gauges = ["queue_depth", "replicas", "mfu"]
    assert [name for name, _ in metrics.calls] == gauges * 2  # at the first event, and at the end
    states[-1].remaining = 1
    watch.look(states[-1])
    now[0] = 5.0
    watch.look(states[-1])
    assert [name for name, _ in metrics.calls] == gauges * 3
    assert metrics.calls[-3] == ("queue_depth", (0,))
    assert sum(metrics.calls[-2][1][0].values()) == 2


def test_what_another_job_finished_is_progress_but_not_our_work(tmp_path: Path) -> None:
    (watch, tally, stream), metrics = watching(tmp_path / "events.jsonl"), Metrics()
    watch._metrics = metrics  # pyright: ignore[reportAttributeAccessIssue]
    watch.unit_done(Labels({}).label(UNITS[0], "0"), ours=False)
    assert metrics.calls == []
    assert (tally.done, tally.before) == (0, 1)
    assert "labels: 17 %, 10 B of 60 B" in stream.getvalue()
