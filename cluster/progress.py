"""How far a job is: a bar with facts beneath on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

__all__ = ["ProgressReport", "duration", "quantity"]

_LINE_SECONDS = 10.0
_WINDOW_SECONDS = 120.0


class ProgressReport:
    """A context manager that counts up to `total` of a `unit`, or up to nobody knows what; `done` were there before.

    `advance` counts, `skip` what others did; `show` says what to ask for what else is worth saying, in short pieces.
    Rate and time left are those of the last two minutes, and count only what was done here.
    """

    def __init__(
        self,
        title: str,
        total: float | None,
        unit: str,
        done: float = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        interval_seconds: float = _LINE_SECONDS,
    ) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done, self._here = done, 0.0
        self._stream = sys.stderr if stream is None else stream
        self._clock, self._interval = clock, interval_seconds
        self._facts: Callable[[], Sequence[str]] = tuple
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), auto_refresh=False
        )
        self._task = self._bar.add_task(title, total=total, completed=int(done), words="")
        self._start()

    def _start(self) -> None:
        self._began = self._spoke = self._clock()
        self._steps = deque([(self._began, self._here)])

    def __enter__(self) -> "ProgressReport":
        self._start()
        if self._stream.isatty():
            self._live = Live(
                get_renderable=self._picture, console=Console(file=self._stream), refresh_per_second=4, transient=False
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif error is None:
            self._say()

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more as done."""
        self._done += amount
        self._here += amount
        now = self._clock()
        self._steps.append((now, self._here))
        while len(self._steps) > 2 and now - self._steps[1][0] > _WINDOW_SECONDS:
            self._steps.popleft()
        self.tick()

    def skip(self, amount: float) -> None:
        """Count `amount` more as done, but not here."""
        self._done += amount
        self.tick()

    def show(self, facts: Callable[[], Sequence[str]]) -> None:
        """Say what this answers beside the count, from now on; on a terminal another thread asks."""
        self._facts = facts

    def tick(self) -> None:
        """Nothing was done, but time has passed: a line may be due."""
        if self._live is None and self._clock() - self._spoke >= self._interval:
            self._say()

    def rate(self) -> float:
        """How much a second."""
        since, before = self._steps[0]
        return (self._here - before) / max(self._clock() - since, 1e-9)

    def line(self) -> str:
        """The state in one line."""
        return "; ".join([f"{self._title}: {self._words()}", *self._facts()])

    def _picture(self) -> Group:
        self._bar.update(self._task, completed=self._done, words=self._words())
        return Group(self._bar, Text("; ".join(self._facts()), style="dim"))

    def _say(self) -> None:
        self._spoke = self._clock()
        print(self.line(), file=self._stream, flush=True)

    def _words(self) -> str:
        done, rate = quantity(self._done, self._unit), f"{quantity(self.rate(), self._unit)}/s"
        took = f"after {duration(self._clock() - self._began)}"
        if self._total is None:
            return f"{done}, {rate}, {took}"
        share = 100 * self._done / self._total if self._total else 100.0
        left = self._seconds_left()
        ending = f"{duration(left)} left" if left is not None else took
        return f"{share:.0f} %, {done} of {quantity(self._total, self._unit)}, {rate}, {ending}"

    def _seconds_left(self) -> float | None:
        rate = self.rate()
        if self._total is None or rate <= 0 or self._done >= self._total:
            return None
        return (self._total - self._done) / rate


def quantity(amount: float, unit: str) -> str:
    """`812 tokens`, `3.14 MB`, `1.2 M tokens`: three digits, in steps of a thousand."""
    scaled, steps = float(amount), ["", "k", "M", "G", "T", "P"]
    while abs(scaled) >= 999.5 and len(steps) > 1:
        scaled, steps = scaled / 1000, steps[1:]
    return f"{scaled:.3g} {steps[0]}{' ' if steps[0] and unit != 'B' else ''}{unit}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
