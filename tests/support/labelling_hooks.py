"""Faults inside real replica actors: what Ray runs first in every worker of the tests' clusters.

A run's folder `gate` holds files that a test writes and removes:
`closed`: no unit begins to be labelled; `hold-UNIT`: nor does its first attempt, until its second has a shard, which
is answered for when the first has one too (and that is answered for when the receipt is there, so the second wins);
`memory-UNIT`: more windows at once than it says do not fit.
`log` has a line for each unit that came to a replica: unit, attempt, process id.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cluster import workers
from cluster.labelling.replica.actor import TeacherActor
from kdcore.planning.plan import WorkUnit

_label = TeacherActor.label


def set_up() -> None:
    """The project's own first step, then the faults."""
    workers.set_up()
    TeacherActor.label = label


def label(self: Any, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Any:
    store, number = Path(self._store_path), attempt.rpartition("-")[2]
    gate = store.parent / "gate"
    with (gate / "log").open("a") as log:
        log.write(f"{unit.id} {number} {os.getpid()}\n")
    wait_for(lambda: not (gate / "closed").exists())
    held = (gate / f"hold-{unit.id}").exists()

    def has_shard(number: int) -> bool:
        return any((store / "data").glob(f"{unit.id}-*-{number}-*.arrow"))

    if held and number == "0":
        wait_for(lambda: has_shard(1))
    with memory(gate / f"memory-{unit.id}"):
        answer = _label(self, unit, attempt, batch_divisor)
    if held:
        wait_for(lambda: has_shard(0) if number == "1" else (store / "journal" / f"{unit.id}.json").exists())
    return answer


@contextmanager
def memory(limit: Path) -> Iterator[None]:
    """Room for so many windows as the file says; for all without one."""
    from kdcore.teachers.causal_lm import CausalLMTeacher

    real = CausalLMTeacher.window_logits

    def window_logits(teacher: Any, windows: Any) -> Any:
        if limit.exists() and len(windows) > int(limit.read_text()):
            raise MemoryError(f"{len(windows)} windows at once")
        return real(teacher, windows)

    with patch.object(CausalLMTeacher, "window_logits", window_logits):
        yield


def wait_for(true: Callable[[], bool], seconds: float = 300.0) -> None:
    """Poll until it is true; TimeoutError with what was waited for by its place in the code."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain, line {true.__code__.co_firstlineno}")
        time.sleep(0.02)
