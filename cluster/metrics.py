"""What labelling tells Prometheus: Ray's own metrics, under the names that infra/grafana draws.

Ray exports each name with the prefix `ray_`. Nothing here starts Ray, and without it every call does nothing.
"""

import sys
from collections.abc import Mapping
from typing import Any

from kdcore.store.writer import Receipt

__all__ = ["METRICS", "LabellingMetrics"]

# name -> (kind, labels, description)
METRICS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "kdcore_tokens_total": ("counter", (), "Tokens (or images) labelled in finished units."),
    "kdcore_units_total": ("counter", ("outcome",), "Work units by how they ended: done, quarantined."),
    "kdcore_retries_total": ("counter", (), "Attempts of work units that were repeated."),
    "kdcore_bytes_total": ("counter", (), "Bytes of finished shards."),
    "kdcore_forward_seconds_total": ("counter", (), "Seconds of teachers in their forward passes."),
    "kdcore_teacher_mfu": ("gauge", (), "Share of the devices' peak that the teacher reaches in its forward passes."),
    "kdcore_queue_depth": ("gauge", (), "Work units that no replica holds yet."),
    "kdcore_replicas": ("gauge", ("state",), "Teacher replicas by state."),
}


class LabellingMetrics:
    """The driver's metrics of one labelling job; `job` tells jobs on one cluster apart."""

    def __init__(self, job: str) -> None:
        self._tags = {"job_name": job}
        self._made: dict[str, Any] = {}
        self._states: set[str] = set()

    def unit_done(self, receipt: Receipt) -> None:
        """Count a unit whose receipt won: its tokens (images, for a vision teacher), its shard's bytes, its seconds."""
        self._count("kdcore_units_total", 1, outcome="done")
        self._count("kdcore_tokens_total", receipt.labels)
        self._count("kdcore_bytes_total", receipt.bytes)
        self._count("kdcore_forward_seconds_total", receipt.forward_seconds)

    def unit_retried(self) -> None:
        """Count an attempt that failed and will be repeated."""
        self._count("kdcore_retries_total", 1)

    def unit_quarantined(self) -> None:
        """Count a unit that was given up."""
        self._count("kdcore_units_total", 1, outcome="quarantined")

    def mfu(self, share: float | None) -> None:
        """Say how well the teacher uses its devices; None where nobody measured."""
        if share is not None:
            self._set("kdcore_teacher_mfu", share)

    def queue_depth(self, units: int) -> None:
        """Say how many units wait."""
        self._set("kdcore_queue_depth", units)

    def replicas(self, by_state: Mapping[str, int]) -> None:
        """Say how many replicas are in each state; a state seen before and missing now goes to 0."""
        self._states.update(by_state)
        for state in sorted(self._states):
            self._set("kdcore_replicas", by_state.get(state, 0), state=state)

    def _count(self, name: str, value: float, **labels: str) -> None:
        metric = self._metric(name)
        if metric is not None and value > 0:  # Ray refuses increments of 0
            metric.inc(value, tags={**self._tags, **labels})

    def _set(self, name: str, value: float, **labels: str) -> None:
        metric = self._metric(name)
        if metric is not None:
            metric.set(value, tags={**self._tags, **labels})

    def _metric(self, name: str) -> Any:
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return None
        if name not in self._made:
            from ray.util import metrics

            kind, labels, description = METRICS[name]
            make = metrics.Counter if kind == "counter" else metrics.Gauge
            self._made[name] = make(name, description=description, tag_keys=(*self._tags, *labels))
        return self._made[name]
