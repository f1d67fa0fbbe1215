"""What an operator sees of a labelling job whose units fail: the log's lines and the metrics' counts."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.labelling.controller import run_units
from cluster.labelling.policy_state import Rules
from cluster.labelling.pool import InProcessPool
from cluster.labelling.watch import Watch
from kdcore.data.plan import WorkUnit
from kdcore.errors import LabelError, StorageUnavailable, UnitFailed
from kdcore.store import Receipt

UNITS = [WorkUnit(f"unit-{number:06d}", (), 10, f"digest{number}") for number in range(6)]


class Labels:
    def __init__(self, faults: dict[str, list[Exception]]) -> None:
        self.faults = faults

    def identity(self) -> dict[str, Any]:
        return {}

    def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        if self.faults.get(unit.id):
            raise self.faults[unit.id].pop(0)
        return Receipt(unit.id, f"data/{unit.id}-{attempt}.arrow", 1, 7, 20, "d", unit.digest)


class Metrics:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values, **named: self.calls.append((name, values or named))


def test_retries_given_up_units_and_what_is_done_are_counted_and_logged(tmp_path: Path) -> None:
    watch, metrics = Watch("run", tmp_path / "run" / "events.jsonl"), Metrics()
    watch._metrics = metrics  # pyright: ignore[reportAttributeAccessIssue]
    faults = {UNITS[4].id: [LabelError("NaN")], UNITS[5].id: [StorageUnavailable("503")]}
    pool, rules = InProcessPool(lambda: Labels(faults)), Rules(retry_seconds=0.01, lowest=2, highest=2)
    with pytest.raises(UnitFailed, match=UNITS[4].id):
        run_units(UNITS, pool, rules, watch.unit_done, record=watch.record, look=watch.look)
    counted = [name for name, _ in metrics.calls]
    assert counted.count("unit_done") == 5
    assert counted.count("unit_retried") == 1
    assert counted.count("unit_quarantined") == 1
    assert ("unit_done", {"tokens": 7, "size": 20}) in metrics.calls
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert {"Retry", "Quarantine", "UnitError"} <= {line["event"] for line in lines}


def test_gauges_are_set_again_after_a_while_though_nothing_changed(tmp_path: Path) -> None:
    now = [0.0]
    watch, metrics = Watch("run", tmp_path / "events.jsonl", clock=lambda: now[0]), Metrics()
    watch._metrics = metrics  # pyright: ignore[reportAttributeAccessIssue]
    states = []

    def look(state: Any) -> None:
        states.append(state)
        watch.look(state)

    run_units(UNITS, InProcessPool(lambda: Labels({})), Rules(lowest=2, highest=2), lambda receipt: None, look=look)
    assert [name for name, _ in metrics.calls] == ["queue_depth", "replicas"]
    now[0] = 5.0
    watch.look(states[-1])
    assert metrics.calls[2] == ("queue_depth", (0,))
    assert sum(metrics.calls[3][1][0].values()) == 2
