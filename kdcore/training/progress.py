"""What a training run says while it runs."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """One message of rank 0: numbers of a step, or a `note` in words. `waiting_for_data` is a share of the time."""

    arm: str
    step: int
    steps: int
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    waiting_for_data: float | None = None
    note: str = ""

    def __str__(self) -> str:
        head = f"{self.arm}: step {self.step}/{self.steps}"
        if self.note:
            return f"{self.arm}: {self.note}"
        parts = [head]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.0f}/s")
        if self.waiting_for_data is not None:
            parts.append(f"{self.waiting_for_data:.0%} waiting for data")
        if self.seconds_left is not None:
            parts.append(f"{format_seconds(self.seconds_left)} left")
        return ", ".join(parts)


OnProgress = Callable[[Progress], None]
"""Told of the steps that are done."""


def print_progress(progress: Progress) -> None:
    """One line on standard output."""
    print(progress, flush=True)


def format_seconds(seconds: float) -> str:
    """1:05 or 2:03:04."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
