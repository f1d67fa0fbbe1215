"""How far a job is: a bar on a terminal, a line every few seconds elsewhere, with rate and time left."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import TaskID as _TaskID

__all__ = ["ProgressReport", "duration"]

_LINE_SECONDS = 10.0


class ProgressReport:
    """A context manager that counts up to `total` in `unit`s; `done` of them were there before it began.

    `advance` takes the amount and a word on what it was. Rate and time left count only what was done here.
    """

    def __init__(
        self,
        title: str,
        total: float,
        unit: str,
        done: float = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval_seconds: float = _LINE_SECONDS,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._first = self._done = done
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._interval = clock, interval_seconds
        self._began = self._spoke = clock()
        self._bar: Progress | None = None
        self._task: _TaskID | None = None

    def __enter__(self) -> "ProgressReport":
        self._began = self._spoke = self._clock()
        if self._stream.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(file=self._stream),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=int(self._done), rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None:
            self._say()

    def advance(self, amount: float, note: str = "") -> None:
        """Count `amount` more as done."""
        self._done += amount
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, rate=self._rate_text())
        elif self._clock() - self._spoke >= self._interval:
            self._say(note)

    def line(self, note: str = "") -> str:
        """The state in one line."""
        share = 100 * self._done / self._total if self._total else 100.0
        left = self._seconds_left()
        ending = f", {duration(left)} left" if left else f", took {duration(self._clock() - self._began)}"
        extra = f"  ({note})" if note else ""
        counts = f"{self._done:,.0f}/{self._total:,.0f} {self._unit}"
        return f"{self._title}: {share:.0f} %  {counts}, {self._rate_text()}{ending}{extra}"

    def _say(self, note: str = "") -> None:
        self._spoke = self._clock()
        print(self.line(note), file=self._stream, flush=True)

    def _rate(self) -> float:
        return (self._done - self._first) / max(self._clock() - self._began, 1e-9)

    def _rate_text(self) -> str:
        return f"{self._rate():,.0f} {self._unit}/s"

    def _seconds_left(self) -> float | None:
        rate = self._rate()
        return (self._total - self._done) / rate if rate > 0 and self._done < self._total else None


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
