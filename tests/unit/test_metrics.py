"""Labelling's metrics against a stand-in for Ray, and without it."""

import sys
import types
from collections.abc import Mapping

import pytest

from cluster.metrics import METRICS, LabellingMetrics
from kdcore.store import Receipt


class Recorder:
    made: list["Recorder"] = []  # noqa: RUF012

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys, self.calls = name, tag_keys, []
        Recorder.made.append(self)

    def inc(self, value: float, tags: Mapping[str, str]) -> None:
        assert value > 0
        self.set(value, tags)

    def set(self, value: float, tags: Mapping[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.calls.append((value, tags))


def fake_ray(monkeypatch: pytest.MonkeyPatch, initialised: bool) -> None:
    ray, util, metrics = (types.ModuleType(name) for name in ("ray", "ray.util", "ray.util.metrics"))
    ray.is_initialized = lambda: initialised
    ray.util, util.metrics, metrics.Counter, metrics.Gauge = util, metrics, Recorder, Recorder
    for module in (ray, util, metrics):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Recorder, "made", [])


def use(metrics: LabellingMetrics) -> None:
    metrics.unit_done(Receipt("unit-0", "data/0.arrow", 1, 100, 2000, "d", "u", forward_seconds=0.5))
    metrics.unit_done(Receipt("unit-1", "data/1.arrow", 1, 0, 10, "d", "u"))
    metrics.mfu(None)
    metrics.mfu(0.4)
    metrics.unit_retried()
    metrics.unit_quarantined()
    metrics.queue_depth(3)
    metrics.replicas({"ready": 2, "starting": 1})
    metrics.replicas({"ready": 3})


def test_every_metric_is_made_once_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch, initialised=True)
    use(LabellingMetrics("run"))
    made = {metric.name: metric for metric in Recorder.made}
    assert set(made) == set(METRICS)
    assert len(Recorder.made) == len(METRICS)
    assert [value for value, _ in made["kdcore_tokens_total"].calls] == [100]
    assert [value for value, _ in made["kdcore_forward_seconds_total"].calls] == [0.5]
    assert [value for value, _ in made["kdcore_teacher_mfu"].calls] == [0.4]
    assert [tags["outcome"] for _, tags in made["kdcore_units_total"].calls] == ["done", "done", "quarantined"]
    assert made["kdcore_replicas"].calls[-1] == (0, {"job_name": "run", "state": "starting"})


def test_a_ray_that_does_not_run_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ray(monkeypatch, initialised=False)
    use(LabellingMetrics("run"))
    assert Recorder.made == []


def test_without_ray_nothing_happens_and_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    use(LabellingMetrics("run"))
    assert "ray" not in sys.modules
