"""Processes of a test: whose child is whose. Orphans are adopted, so that none goes unseen."""

import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "actors_of", "adopt_orphans", "below", "runs", "unfinished", "until"]

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS = 300.0


@dataclass(frozen=True)
class Process:
    """One living process; `name` is its command line, which Ray replaces by what a worker runs."""

    pid: int
    parent: int
    name: str


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (Linux)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def below(root: int) -> list[Process]:
    """All living descendants of a process."""
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            name = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if state not in "ZX":
                children.setdefault(int(parent), []).append(Process(int(entry.name), int(parent), name))
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child.pid)
    return found


def unfinished(pid: int) -> set[str]:
    """The shards that a process has begun and not finished, by the names of their files; none when it is gone."""
    found = set()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(os.readlink(link))
    return {name for name in found if name.endswith(".partial")}


def until(condition: Callable[[], object], what: str, seconds: float = _SECONDS) -> None:
    """Look again and again until it is so; TimeoutError says what did not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s, still not: {what}")
        time.sleep(0.03)


def actors_of(driver: int, kind: str = "TeacherActor") -> list[int]:
    """Process ids of the Ray actors of class `kind` below `driver`."""
    return [process.pid for process in below(driver) if f"ray::{kind}" in process.name]


def runs(process: int, kind: str = "TeacherActor") -> bool:
    """Whether `process` is a Ray actor of class `kind`, and alive."""
    with contextlib.suppress(OSError):
        return f"ray::{kind}" in Path(f"/proc/{process}/cmdline").read_text()
    return False
