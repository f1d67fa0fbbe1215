"""What an operator sees of a labelling job: the record of its events, its metrics, and its progress."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.labelling.events import EventLog
from cluster.labelling.policy.state import State
from cluster.labelling.tally import Tally
from cluster.metrics import LabellingMetrics
from cluster.progress import ProgressReport
from kdcore.store.writer import Receipt

__all__ = ["Watch"]

# Gauges that nobody refreshes are dropped by the exporter, so they are set again although nothing changed.
_GAUGE_SECONDS = 5.0


class Watch:
    """Passes what happens on to `log` (a file of JSON lines), to Ray's metrics under the job's name, and to `progress`.

    What a person should hear at once goes to `on_note` as well. `sizes` are the bytes of input of the units.
    """

    def __init__(
        self,
        job: str,
        log: Path,
        sizes: Mapping[str, int],
        tally: Tally,
        progress: ProgressReport,
        on_note: Callable[[str], None] = lambda note: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._metrics, self._clock, self._on_note = EventLog(log), LabellingMetrics(job), clock, on_note
        self._sizes, self._tally, self._progress = sizes, tally, progress
        self._gauged = -_GAUGE_SECONDS
        self._said: set[str] = set()
        progress.show(lambda: tally.facts(progress.rate()))

    def unit_done(self, receipt: Receipt, ours: bool = True) -> None:
        """Count a unit that is finished; one that another job finished (not `ours`) is progress, but not our work."""
        size = self._sizes[receipt.unit]
        if ours:
            self._metrics.unit_done(receipt)
            self._tally.add(receipt, size)
            self._progress.advance(size)
        else:
            self._tally.before += 1
            self._progress.skip(size)

    def record(self, event: Mapping[str, Any]) -> None:
        """Log what was not routine, and count retries and units that were given up. Notes of replicas are said once."""
        if "note" in event:
            if event["note"] in self._said:
                return
            self._said.add(event["note"])
            self._on_note(f"teacher: {event['note']}")
        self._log(event)
        self._tally.record(event)
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
        """Show how many units wait and what the replicas do: every few seconds, and when nothing is left to do."""
        self._tally.replicas = _by_state(state)
        self._progress.tick()
        now = self._clock()
        if now - self._gauged >= _GAUGE_SECONDS or not state.remaining:
            self._gauged = now
            self._metrics.queue_depth(len(state.fresh) + len(state.again) + len(state.waiting))
            self._metrics.replicas(self._tally.replicas)
            self._metrics.mfu(self._tally.mfu())


def _by_state(state: State) -> dict[str, int]:
    fleet = state.fleet
    draining = len(fleet.leaving & state.running.keys())
    return {
        "working": len(state.running) - draining,
        "draining": draining,
        "idle": len(state.idle),
        "starting": len(fleet.loading) + len(fleet.loaded) + len(fleet.restarting),
        "no room": len(fleet.asked),
        "given up": len(fleet.given_up),
    }
