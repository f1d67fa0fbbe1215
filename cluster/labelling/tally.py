"""What a labelling job has done so far, in numbers, and in the words of its progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.progress import quantity
from kdcore.planning.plan import Input
from kdcore.store.writer import Receipt

__all__ = ["Tally", "mfu", "totals"]

_LONGEST_FAILURE = 160


@dataclass
class Tally:
    """Counts of this job alone; `before` of its `units` were labelled by others."""

    units: int = 0
    before: int = 0
    what: str = "tokens"
    done: int = 0
    input_bytes: int = 0
    tokens: int = 0
    retried: int = 0
    failed: int = 0
    forward_seconds: float = 0.0
    ideal_seconds: float = 0.0
    last_failure: str = ""
    replicas: Mapping[str, int] = field(default_factory=dict)

    def add(self, receipt: Receipt, input_bytes: int) -> None:
        """A unit that this job finished; its labels are counted as tokens (or `what`)."""
        self.done += 1
        self.input_bytes += input_bytes
        self.tokens += receipt.labels
        self.forward_seconds += receipt.forward_seconds
        self.ideal_seconds += receipt.ideal_seconds

    def record(self, event: Mapping[str, Any]) -> None:
        """Count retries and units that were given up, and keep the last failure."""
        self.retried += event["event"] == "Retry"
        self.failed += event["event"] == "Quarantine"
        if event.get("reason") and event["event"] in ("UnitError", "ReplicaDied", "Quarantine", "GiveUp"):
            where = event.get("unit") or f"replica {event.get('replica')}"
            words = " ".join(f"{where}: {event['reason']}".split())
            self.last_failure = words[:_LONGEST_FAILURE]

    def mfu(self) -> float | None:
        """The teacher's use of its devices so far."""
        return mfu(self.ideal_seconds, self.forward_seconds)

    def facts(self, rate: float) -> list[str]:
        """What a person wants to know, while `rate` bytes of input are done a second."""
        found = [f"{quantity(rate * self.tokens / max(1, self.input_bytes), self.what)}/s"]
        found.append(f"units {self.before + self.done} of {self.units}, {self.retried} retried, {self.failed} failed")
        states = ", ".join(f"{count} {state}" for state, count in self.replicas.items() if count)
        found.append(f"replicas {states or 'none'}")
        share = self.mfu()
        if share is not None:
            found.append(f"MFU {100 * share:.3g} %")
        if self.last_failure:
            found.append(f"last failure {self.last_failure}")
        return found


def mfu(ideal_seconds: float, forward_seconds: float) -> float | None:
    """The share of its devices' peak that a teacher reached in its forward passes; None where nobody measured.

    Tokens that are read count as useful, once each, labelled or not: padding, context read twice, attention itself and
    whatever happens between the passes (reading, coding, writing) are not in the first sum, and the last is in neither.
    """
    return ideal_seconds / forward_seconds if ideal_seconds and forward_seconds else None


def totals(receipts: Sequence[Receipt], planned: Input) -> dict[str, Any]:
    """What the receipts of a whole store add up to, and what was left out of its input; for its manifest."""
    labels, size = sum(item.labels for item in receipts), sum(item.bytes for item in receipts)
    return {
        "rows": sum(item.rows for item in receipts),
        "labels": labels,
        "samples": planned.num_samples,
        "bytes_per_label": size / labels if labels else None,
        "skipped": [list(item) for item in planned.skipped],
        "num_skipped": planned.num_skipped,
        "teacher_mfu": mfu(
            sum(item.ideal_seconds for item in receipts), sum(item.forward_seconds for item in receipts)
        ),
    }
