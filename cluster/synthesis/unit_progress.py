"""What a replica says of a unit of images that takes minutes: one line an interval, forwarded to the driver."""

import time
from collections.abc import Callable, Mapping

from cluster.progress import duration

__all__ = ["UnitProgress"]

_LINE_SECONDS = 30.0


class UnitProgress:
    """Told of every step of a unit of `wanted` images; speaks when the last line is `interval_seconds` old."""

    def __init__(
        self,
        unit: str,
        wanted: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        interval_seconds: float = _LINE_SECONDS,
    ) -> None:
        self._unit, self._wanted, self._say = unit, wanted, say
        self._clock, self._interval = clock, interval_seconds
        self._began = self._spoke = clock()
        self._steps = 0

    def __call__(self, have: int, losses: Mapping[str, float]) -> None:
        """After a step: so many images there are, and the losses of the last batch."""
        self._steps += 1
        now = self._clock()
        if now - self._spoke < self._interval:
            return
        self._spoke = now
        passed = now - self._began
        parts = [f"{self._unit}: {have:,} of {self._wanted:,} images after {duration(passed)}, step {self._steps:,}"]
        parts += [f"{name} {value:.3g}" for name, value in losses.items()]
        if have:
            parts.append(f"{duration(passed * (self._wanted - have) / have)} left")
        self._say(", ".join(parts))
