"""Faults inside real replica actors: what Ray runs first in every worker of the tests' clusters.

In a run's folder `gate` no unit begins to be labelled while there is a file `closed`, which a test writes and removes;
`log` has a line for each unit that came to a replica: unit, attempt, process id.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import workers
from cluster.labelling.actor import TeacherActor
from kdcore.data.plan import WorkUnit

_label = TeacherActor.label


def set_up() -> None:
    """The project's own first step, then the faults."""
    workers.set_up()
    TeacherActor.label = label


def label(self: Any, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Any:
    gate = Path(self._store_path).parent / "gate"
    with (gate / "log").open("a") as log:
        log.write(f"{unit.id} {attempt.rpartition('-')[2]} {os.getpid()}\n")
    wait_for(lambda: not (gate / "closed").exists())
    return _label(self, unit, attempt, batch_divisor)


def wait_for(true: Callable[[], bool], seconds: float = 300.0) -> None:
    """Poll until it is true; TimeoutError with what was waited for by its place in the code."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain, line {true.__code__.co_firstlineno}")
        time.sleep(0.02)
