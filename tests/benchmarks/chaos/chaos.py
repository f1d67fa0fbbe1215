"""Runs under faults, one after the other, each compared with the undisturbed one."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.labelling.run import PoolMaker, label_store
from kdcore.config import Recipe
from kdcore.data.document import WHOLE_FILE, SampleRef
from kdcore.data.splits import probe_rank
from kdcore.store import collect_garbage, verify_store
from tests.benchmarks.chaos import faults, material
from tests.benchmarks.chaos.bench import BUCKET
from tests.benchmarks.chaos.rows import Comparison, Content, compare, content_of
from tests.benchmarks.chaos.run import FINISHED, UNITS_FAILED, Bench, Kill, Run, Unexpected, send
from tests.benchmarks.harness import progress
from tests.support.processes import until

__all__ = ["Tally", "disturbed_run", "poisoned_run", "store_of", "undisturbed_labels", "undisturbed_run"]

POISONED = 3
KILLS = ("actor_kill", "actor_term", "driver_kill", "driver_term", "raylet_kill", "node_term")


@dataclass
class Tally:
    """Sums over all runs; `late`: units done again although their receipt was there, by backups and second jobs."""

    by_kind: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    missing: int = 0
    doubled: int = 0
    different: int = 0
    shards_different: int = 0
    unverified: int = 0
    orphans: int = 0
    kills: int = 0
    restarts: int = 0
    recomputed: int = 0
    lost_by_kill: Counter[int] = field(default_factory=Counter)
    lost_beyond: int = 0
    lost_to_nobody: int = 0
    late: int = 0
    events: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def rows_wrong(self) -> int:
        """Rows missing, doubled or different, over all runs."""
        return self.missing + self.doubled + self.different

    def summary(self) -> dict[str, Any]:
        """As one line of JSON wants it."""
        return {
            "faults": self.by_kind.total(),
            "by_kind": dict(sorted(self.by_kind.items())),
            "rows_wrong": self.rows_wrong,
            "missing": self.missing, "doubled": self.doubled, "different": self.different,
            "shards_different": self.shards_different,
            "stores_not_verified": self.unverified,
            "kills": self.kills,
            "units_recomputed": self.recomputed,
            "lost_units_per_kill_max": max(self.lost_by_kill, default=None),  # seen in directories only
            "lost_units_per_kill": {str(lost): kills for lost, kills in sorted(self.lost_by_kill.items())},
            "kills_that_lost_more_than_a_unit_a_replica": self.lost_beyond,
            "units_lost_without_a_kill": self.lost_to_nobody,
            "units_done_twice": self.late,
            "orphan_processes": self.orphans,
            "driver_restarts": self.restarts,
            "events": dict(sorted(self.events.items())),
            "runs": self.runs,
            "runs_failed": self.failures,
        }  # fmt: skip

    @property
    def failed(self) -> bool:
        """Whether anything is not as promised."""
        lost = self.lost_beyond or self.lost_to_nobody
        stores = self.rows_wrong or self.shards_different or self.unverified
        return bool(stores or self.orphans or lost or self.failures)


def undisturbed_run(bench: Bench) -> Content:
    """The store that all others must equal."""
    run = Run(bench, "calm", store_of(bench, "calm"), {}, random.Random(0))
    run.begin()
    run.drivers[0].wait(FINISHED)
    assert verify_store(run.store).ok
    return content_of(run.store)


def undisturbed_labels(bench: Bench, make_pool: PoolMaker) -> Content:
    """The same content, from any pool: one in this process is faster than another start of everything."""
    store = store_of(bench, "here")
    settings = material.recipe(bench.folder, "here", store, "local", 1)
    label_store(Recipe.model_validate(settings), progress, make_pool)
    return content_of(store)


def disturbed_run(bench: Bench, name: str, schedule: Sequence[str], wanted: Content, tally: Tally, seed: int) -> None:
    """A run with the faults of `schedule`, a few units between them; what did not come to pass is not counted."""
    remote = bench.front is not None and any(kind == "storage" for kind in schedule)
    store = f"s3://{BUCKET}/{name}" if remote else store_of(bench, name)
    run = Run(bench, name, store, wanted, random.Random(f"{seed} {name}"))
    try:
        _under_faults(run, schedule)
    except (Unexpected, AssertionError, TimeoutError, RuntimeError) as error:
        progress(f"{name} FAILED: {error}")
        tally.failures.append(f"{name}: {error}"[:500])
        run.abandon()
    else:
        tally.orphans += _orphans(bench)
        _count(run, tally)


def _under_faults(run: Run, schedule: Sequence[str]) -> None:
    run.begin()
    gap = max(1, len(run.wanted) * 3 // 4 // (len(schedule) + 1))
    for kind in schedule:
        if not run.advance(run.random.randint(1, gap)):
            break
        faults.inject(run, kind)
        progress(f"{run.name}: {kind} at {len(run.receipts())} of {len(run.wanted)} units")
    for driver in run.drivers:
        driver.wait(FINISHED)
        # A backup that is not done when the job is.
        run.kills.append(Kill("finish", 0.0, run.bench.replicas, frozenset(), driver.log))


def _orphans(bench: Bench) -> int:
    """How many replicas outlive their run; they are ended then."""
    try:
        until(lambda: not bench.cluster.actors(), "the replicas of a finished run have ended", 60)
    except TimeoutError:
        left = bench.cluster.actors()
        progress(f"orphans: {left}")
        for actor in left:
            send(actor.pid)
        return len(left)
    return 0


def _count(run: Run, tally: Tally) -> None:
    _add(run, compare(content_of(run.store), run.wanted), tally)
    if not run.remote:
        _count_lost(run, tally)
        collect_garbage(run.store, min_age_seconds=0)
    report = verify_store(run.store)
    tally.unverified += not report.ok or (not run.remote and bool(report.notes))
    progress(f"{run.name}: {'verified' if report.ok else report.problems}")


def _add(run: Run, found: Comparison, tally: Tally) -> None:
    progress(f"{run.name}: {dict(run.fired)}; {found}")
    tally.runs += 1
    tally.missing += found.missing
    tally.doubled += found.doubled
    tally.different += found.different
    tally.shards_different += found.shards
    tally.by_kind += run.fired
    tally.kills += sum(kill.kind in KILLS for kill in run.kills)
    tally.restarts += run.restarts
    for driver in run.drivers:
        tally.events.update(str(event["event"]) for event in driver.events())
    tally.recomputed += sum(event["event"] == "UnitError" for driver in run.drivers for event in driver.events())


def _count_lost(run: Run, tally: Tally) -> None:
    killed, late = run.wasted()
    tally.recomputed += killed.total() + late
    tally.late += late
    tally.lost_to_nobody += killed[-1]
    for number, kill in enumerate(run.kills):
        if kill.kind in KILLS:
            tally.lost_by_kill[killed[number]] += 1
        tally.lost_beyond += killed[number] > kill.replicas
    told = [f"{kill.kind} {killed[number]} of {kill.replicas}" for number, kill in enumerate(run.kills)]
    progress(f"{run.name}: units lost, of replicas ended: {', '.join(told)}; {late} were done twice")


def poisoned_run(bench: Bench, name: str, wanted: Content, tally: Tally) -> None:
    """A run whose teacher answers NaN to a document of each of three units; all others must be as in `wanted`."""
    names = {name: unit for unit, content in wanted.items() for _, name, _ in content.rows}
    # The probe begins with other documents: it must be that of the undisturbed run.
    poisoned = sorted(names, key=lambda document: probe_rank(SampleRef(document, "", WHOLE_FILE, 0)))[-POISONED:]
    units = {names[name] for name in poisoned}
    material.poison_documents(bench.folder, name, poisoned)
    run = Run(bench, name, store_of(bench, name), wanted, random.Random(0), documents=name)
    run.begin()
    run.drivers[0].wait(UNITS_FAILED)
    told = run.drivers[0].told()
    assert all(word in told for word in [*units, *(f"'{name}'" for name in poisoned)]), told
    run.fired["poison_nan"] += len(poisoned)
    _add(run, compare(content_of(run.store), wanted, units), tally)


def store_of(bench: Bench, name: str) -> str:
    """Where a run's store lies in the file system."""
    return str(bench.folder / "disk" / "runs" / name / "labels")
