"""What an operator sees of a labelling job: the record of its events, and its metrics."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.labelling.events import EventLog
from cluster.labelling.policy_state import State
from cluster.metrics import LabellingMetrics
from kdcore.store.writer import Receipt

__all__ = ["Watch"]

# Gauges that nobody refreshes are dropped by the exporter, so they are set again although nothing changed.
_GAUGE_SECONDS = 5.0


class Watch:
    """Passes what happens on to `log` (a file of JSON lines) and to Ray's metrics under the job's name.

    What a person should hear at once goes to `on_note` as well.
    """

    def __init__(
        self,
        job: str,
        log: Path,
        on_note: Callable[[str], None] = lambda note: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._metrics, self._clock, self._on_note = EventLog(log), LabellingMetrics(job), clock, on_note
        self._last = -_GAUGE_SECONDS

    def unit_done(self, receipt: Receipt) -> None:
        """Count a unit that this job finished."""
        self._metrics.unit_done(tokens=receipt.labels, size=receipt.bytes)

    def record(self, event: Mapping[str, Any]) -> None:
        """Log what was not routine, and count retries and units that were given up."""
        self._log(event)
        if event["event"] == "Retry":
            self._metrics.unit_retried()
        elif event["event"] == "Quarantine":
            self._metrics.unit_quarantined()
        elif event["event"] == "Short":
            self._on_note(
                f"labels: room for {event['replicas']} replicas where cluster.replicas wants {event['wanted']}; "
                "goes on with these"
            )
        elif event["event"] == "Drain":
            self._on_note(f"labels: replica {event['replica']} ends its last unit, {event['unit']}: {event['reason']}")

    def look(self, state: State) -> None:
        """Show how many units wait and what the replicas do, at most every few seconds."""
        now = self._clock()
        if now - self._last < _GAUGE_SECONDS:
            return
        self._last = now
        self._metrics.queue_depth(len(state.fresh) + len(state.again) + len(state.waiting))
        fleet = state.fleet
        starting = len(fleet.loading) + len(fleet.loaded) + len(fleet.restarting)
        self._metrics.replicas(
            {
                "working": len(state.running),
                "idle": len(state.idle),
                "starting": starting,
                "no room": len(fleet.asked),
                "given up": len(fleet.given_up),
            }
        )
