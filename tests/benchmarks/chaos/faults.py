"""The kinds of faults: each does one thing to a run that is under way, and brings back what people would bring back."""

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.chaos.run import FAILED, FINISHED, UNITS_FAILED, Run, send
from tests.support.processes import Process, unfinished, until

__all__ = ["KINDS", "LAST", "inject"]

_FILLER = 1 << 16


def inject(run: Run, kind: str) -> None:
    """Do it, and count it."""
    KINDS[kind](run)


def _victim(run: Run) -> Process | None:
    """A replica that is at a unit; with a store in a bucket, where that cannot be seen, any replica."""
    found: list[Process] = []

    def look() -> bool:
        actors = run.bench.cluster.actors()
        found.extend(actors if run.remote else [actor for actor in actors if unfinished(actor.pid)])
        return bool(found) or run.over()

    until(look, f"{run.name}: a replica that works")
    return run.random.choice(found) if found else None


def _actor_kill(run: Run) -> None:
    _end_actor(run, "actor_kill", signal.SIGKILL)


def _actor_term(run: Run) -> None:
    _end_actor(run, "actor_term", signal.SIGTERM)


def _end_actor(run: Run, kind: str, number: int) -> None:
    actor = _victim(run)
    if actor is None:
        return
    run.ending(kind, [actor])
    send(actor.pid, number)
    run.fired[kind] += 1


def _driver_kill(run: Run) -> None:
    _end_driver(run, "driver_kill", signal.SIGKILL)


def _driver_term(run: Run) -> None:
    _end_driver(run, "driver_term", signal.SIGTERM)


def _end_driver(run: Run, kind: str, number: int) -> None:
    running = [driver for driver in run.drivers if not driver.ended]
    if not running:
        return
    run.ending(kind, run.bench.cluster.actors())
    run.fired[kind] += 1
    run.signal_driver(run.random.choice(running), number)


def _raylet_kill(run: Run) -> None:
    """A node with a replica on it is lost, and another one comes."""
    nodes = [node for node in run.bench.cluster.workers if node.actors()]
    if not nodes:
        return
    node = run.random.choice(nodes)
    run.ending("raylet_kill", node.actors())
    run.bench.cluster.lose(node)
    run.bench.cluster.add_worker()
    run.fired["raylet_kill"] += 1


def _node_term(run: Run) -> None:
    """A node is told that it will be taken away, as a spot instance is: it drains, and another one comes."""
    nodes = [node for node in run.bench.cluster.workers if node.actors()]
    if not nodes:
        return
    node = run.random.choice(nodes)
    run.ending("node_term", node.actors(), node.log)
    run.bench.cluster.drain(node)
    run.bench.cluster.add_worker()
    run.fired["node_term"] += 1


def _pause(run: Run) -> None:
    """A replica sleeps while others finish a few units, then goes on as if nothing had been."""
    actor = _victim(run)
    if actor is None:
        return
    send(actor.pid, signal.SIGSTOP)
    run.fired["pause"] += 1
    try:
        run.advance(3)
    finally:
        send(actor.pid, signal.SIGCONT)


def _stuck(run: Run) -> None:
    """A replica sleeps for ever."""
    actor = _victim(run)
    if actor is None:
        return
    run.ending("stuck", [actor])
    send(actor.pid, signal.SIGSTOP)
    run.fired["stuck"] += 1


def _second_job(run: Run) -> None:
    """Another job begins to work on the same store, on a node of its own."""
    if len(run.drivers) > 1:
        return
    if len(run.bench.cluster.workers) == run.bench.replicas:
        run.bench.cluster.add_worker()
    run.join(1)
    run.fired["second_job"] += 1


def _disk_full(run: Run) -> None:
    """No byte is left; every job ends and says so; after there is room again, they go on."""
    filler = run.bench.folder / "disk" / "filler"
    run.ending("disk_full", run.bench.cluster.actors())
    _fill(filler)
    run.fired["disk_full"] += 1
    running = [driver for driver in run.drivers if not driver.ended]
    try:
        until(run.over, f"{run.name}: the jobs end because the disk is full")
    finally:
        filler.unlink()
    for driver in running:
        if driver.process.returncode != FINISHED:
            driver.wait(FAILED, "the disk is full")
            run.restart(driver)


def _fill(filler: Path) -> None:
    size = _FILLER
    with filler.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
        os.fsync(file.fileno())


def _poison(run: Run) -> None:
    """Documents of three units become unreadable after they were planned; mended when the rest is done."""
    running = [driver for driver in run.drivers if not driver.ended]
    until(lambda: all(driver.planned or driver.ended for driver in running), f"{run.name}: the work is planned")
    pending = run.pending()
    if len(pending) < 8:
        return
    units = pending[-3:]
    files = [run.files(unit)[0] for unit in units]
    whole = {file: file.read_bytes() for file in files}
    for file, content in whole.items():
        file.write_bytes(b"\xff\xfe" + content)
    try:
        for driver in running:
            driver.wait(UNITS_FAILED)
    finally:
        for file, content in whole.items():
            file.write_bytes(content)
    failed = set(units) - run.receipts()  # a continued job's order is random: one may have been read just before
    assert run.receipts() == run.wanted.keys() - failed, "others than the poisoned units are missing"
    for driver in running:
        assert all(f"{unit} " in driver.told() for unit in failed), "a poisoned unit is not named"
        run.restart(driver)
    run.fired["poison"] += len(failed)


def _storage(run: Run) -> None:
    """For a while most requests to the storage fail: with 500 or 503, cut in the middle, or done but not answered."""
    front = run.bench.front
    assert front is not None
    front.disturb(run.random.choice([5, 10, 20]), run.random.choice([0.4, 0.7, 1.0]))
    run.fired["storage"] += 1
    try:
        until(lambda: front.calm() or run.over(), f"{run.name}: the disturbance of the storage is over")
    finally:
        front.stop()
    for driver in run.drivers:
        if driver.ended and driver.process.returncode != FINISHED:
            driver.wait(FAILED, "StorageUnavailable")
            run.restart(driver)


KINDS: dict[str, Callable[[Run], None]] = {
    "actor_kill": _actor_kill,
    "actor_term": _actor_term,
    "driver_kill": _driver_kill,
    "driver_term": _driver_term,
    "raylet_kill": _raylet_kill,
    "node_term": _node_term,
    "pause": _pause,
    "stuck": _stuck,
    "second_job": _second_job,
    "disk_full": _disk_full,
    "poison": _poison,
    "storage": _storage,
}
LAST = "poison"
