"""One labelling run under faults: its drivers, what it has done so far, and what the kills cost it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kdcore.config.urls import is_url
from tests.benchmarks.chaos import material
from tests.benchmarks.chaos.cluster import Cluster
from tests.benchmarks.chaos.rows import Content
from tests.benchmarks.harness import REPO
from tests.support.processes import Process, unfinished, until
from tests.support.s3_front import Front

__all__ = ["FAILED", "FINISHED", "UNITS_FAILED", "Bench", "Driver", "Kill", "Run", "Unexpected", "send"]

FINISHED, FAILED, UNITS_FAILED = 0, 2, 3


class Unexpected(Exception):
    """A driver ended as it should not have."""


@dataclass
class Bench:
    """What all runs share."""

    folder: Path
    cluster: Cluster
    front: Front | None
    replicas: int = 2


class Driver:
    """`kd precompute` in a process of its own, started again as often as needed; its log goes on."""

    def __init__(self, bench: Bench, name: str, store: str, replicas: int, documents: str) -> None:
        self.settings = material.recipe(bench.folder, name, store, bench.cluster.address, replicas, documents)
        self.recipe, self.log = bench.folder / f"{name}.yaml", bench.folder / f"{name}.log"
        self.recipe.write_text(yaml.safe_dump(self.settings))
        self._cluster = bench.cluster
        self.start()

    def start(self) -> None:
        """Start it, or start it again; what was said before is no longer `told`."""
        command = [*self._cluster.hosts[0].prefix, sys.executable, "-m", "jobs.main", "precompute", str(self.recipe)]
        self._mark = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env=self._cluster.environment, stdout=file, stderr=file, cwd=REPO, stdin=subprocess.DEVNULL
            )

    @property
    def planned(self) -> bool:
        """Whether it has read all documents."""
        return "plan: " in self.told()

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.process.poll() is not None

    def told(self) -> str:
        """What it has said since its last start."""
        with self.log.open("rb") as file:
            file.seek(self._mark)
            return file.read().decode(errors="replace")

    def wait(self, code: int, saying: str = "") -> None:
        """Let it end with this exit code, and these words in its output."""
        until(lambda: self.ended, f"the driver of {self.log.name} ends:\n{self.told()[-1500:]}", 600)
        if self.process.returncode != code or saying not in self.told():
            told = self.told()[-3000:]
            raise Unexpected(f"{self.log.name}: exit {self.process.returncode}, not {code} and '{saying}':\n{told}")

    def events(self) -> list[dict[str, object]]:
        """What was not routine, from the run directory."""
        file = Path(self.settings["runs"]) / self.settings["name"] / "labels-events.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@dataclass(frozen=True)
class Kill:
    """When processes were ended, how many replicas with them, and which shards these were at.

    Where they end later, by themselves, `log` is the file that is written last then.
    """

    kind: str
    began: float
    replicas: int
    held: frozenset[str]
    log: Path | None = None

    @property
    def time(self) -> float:
        """When they were gone, in seconds since 1970."""
        return self.began if self.log is None else self.log.stat().st_mtime


@dataclass
class Run:
    """A store in the making that shall be as `wanted`. `fired` counts the injected faults by kind."""

    bench: Bench
    name: str
    store: str
    wanted: Content
    random: random.Random
    documents: str = "docs"
    drivers: list[Driver] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)
    kills: list[Kill] = field(default_factory=list)
    restarts: int = 0

    def begin(self) -> None:
        """Start the first driver."""
        self.drivers.append(Driver(self.bench, self.name, self.store, self.bench.replicas, self.documents))

    def join(self, replicas: int) -> None:
        """A second job on the same store."""
        self.drivers.append(Driver(self.bench, f"{self.name}-too", self.store, replicas, self.documents))

    def restart(self, driver: Driver) -> None:
        """The same command once more."""
        self.restarts += 1
        driver.start()

    @property
    def remote(self) -> bool:
        """Whether the store is in a bucket."""
        return is_url(self.store)

    def receipts(self) -> set[str]:
        """Units that are done."""
        if not self.remote:
            return {file.stem for file in (Path(self.store) / "journal").glob("[!.]*.json")}
        assert self.bench.front is not None
        inner = "/" + self.store.partition("://")[2] + "/journal/"
        written = self.bench.front.written
        return {key.rpartition("/")[2].removesuffix(".json") for key in written if key.startswith(inner)}

    def pending(self) -> list[str]:
        """Units that are not done, nor seen to be under way; large ones first."""
        found = self.wanted.keys() - self.receipts() - self._under_way()
        return sorted(found, key=lambda unit: -sum(map(os.path.getsize, self.files(unit))))

    def _under_way(self) -> set[str]:
        """Units whose shards are being written, or were when a kill came; nobody sees that in a bucket."""
        partial = [] if self.remote else (Path(self.store) / "data").glob(".unit-*.partial")
        return {"-".join(file.name.removeprefix(".").split("-")[:2]) for file in partial}

    def files(self, unit: str) -> list[Path]:
        """The documents of a unit."""
        return [self.bench.folder / self.documents / Path(name).name for _, name, _ in self.wanted[unit].rows]

    def over(self) -> bool:
        """Whether every driver has ended."""
        return all(driver.ended for driver in self.drivers)

    def advance(self, units: int) -> bool:
        """Let so many more units be finished; False when the drivers ended before."""
        wanted = len(self.receipts()) + units
        until(lambda: self.over() or len(self.receipts()) >= wanted, f"{self.name}: {wanted} receipts")
        return len(self.receipts()) >= wanted and not self.over()

    def ending(self, kind: str, actors: Sequence[Process], log: Path | None = None) -> None:
        """Note that replicas are about to be ended."""
        held = frozenset(name for actor in actors for name in unfinished(actor.pid))
        self.kills.append(Kill(kind, time.time(), len(actors), held, log))

    def wasted(self) -> tuple[Counter[int], int]:
        """Attempts begun in vain, of a finished store in a directory.

        First those that a kill ended, by its number: an attempt's file is made when it begins, and stays behind. Then
        how many were done, but later than the one that counts: backups, and units that two jobs were at.
        """
        killed: Counter[int] = Counter()
        late = 0
        for file in self.leftovers():
            winner = self._winners()[file.name.lstrip(".").split("-")[1]]
            if file.name.endswith(".partial") or file.stat().st_mtime < winner.stat().st_mtime:
                killed[self._killer(file)] += 1
            else:
                late += 1
        return killed, late

    def _killer(self, file: Path) -> int:
        """The number of the kill that ended a replica at this very file; else of the one next to it in time."""
        holding = [number for number, kill in enumerate(self.kills) if str(file) in kill.held]
        if holding:
            return holding[0]
        written = file.stat().st_mtime
        return min(range(len(self.kills)), key=lambda number: abs(self.kills[number].time - written), default=-1)

    def leftovers(self) -> list[Path]:
        """Files of attempts that do not count, in a directory's finished store."""
        counted = set(self._winners().values())
        return [file for file in (Path(self.store) / "data").iterdir() if file not in counted]

    def _winners(self) -> dict[str, Path]:
        """The shard that counts of each unit, by the unit's number."""
        receipts = [json.loads(file.read_text()) for file in (Path(self.store) / "journal").glob("[!.]*.json")]
        return {receipt["unit"].split("-")[1]: Path(self.store) / receipt["shard"] for receipt in receipts}

    def abandon(self) -> None:
        """End what is left of a run that did not go as it should."""
        for driver in self.drivers:
            driver.process.kill()
            driver.process.wait()
        for actor in self.bench.cluster.actors():
            send(actor.pid)

    def signal_driver(self, driver: Driver, number: int) -> None:
        """Send a signal to a driver, let it end, and start it again."""
        driver.process.send_signal(number)
        until(lambda: driver.ended, "a driver that was sent a signal ends", 60)
        if driver.process.returncode == FINISHED:
            return
        self.restart(driver)


def send(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
