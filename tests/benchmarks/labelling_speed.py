"""What Ray costs a labelling job: replicas on Ray against a plain loop, in the same run, over the same tokens.

`pool_vs_inprocess`: seconds of a loop in this process over those of one replica on Ray, one core each; both do the
same forward passes, encoding and writing, and journal their receipts. `two_replica_speedup`: seconds of one replica
over those of two. All between the first unit given out and the last receipt, medians over the rounds.
`two_loop_speedup`, beside it, is what two such loops reach at once in processes of their own: what the cores give.
`recover_seconds`: from the SIGKILL of one of two replicas until its successor has loaded the teacher and gets a unit.
`first_label_seconds`: from the call, with no cluster there, to the first receipt of one replica.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import psutil

from cluster.labelling.controller import Outcome, Pool
from cluster.labelling.policy import moves
from cluster.labelling.pool import ray_pool
from cluster.labelling.run import label_store
from kdcore.config import Recipe
from kdcore.planning.plan import WorkUnit
from kdcore.store import load_manifest
from tests.benchmarks.harness import REPO, emit, progress

TEACHER = REPO / "models" / "stdlib-lm-4m"
ACTOR = "ray::TeacherActor"


@dataclass
class Watched:
    """A pool that notes when units are given out and done, and kills one of its actors after `kill_after` units."""

    pool: Pool
    kill_after: int | None
    called: float
    given: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    killed: float = 0.0
    recovered: float = 0.0
    _victim: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def submit(self, replica: int, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> None:
        """As the pool does, with a note of the time."""
        self.pool.submit(replica, unit, attempt, batch_divisor)
        self.given.append(time.perf_counter())
        if replica == self._victim and not self.recovered:
            self.recovered = time.perf_counter()

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """As the pool does, with a note of the time; after the unit that was waited for, the kill."""
        outcome = self.pool.wait(timeout)
        match outcome and outcome.event:
            case moves.UnitDone():
                self.done.append(time.perf_counter())
            case moves.ReplicaDied(replica):
                self._victim = replica
        if self.kill_after is not None and len(self.done) >= self.kill_after and not self.killed:
            self.killed = time.perf_counter()
            one_actor().kill()
        return outcome

    @property
    def seconds(self) -> float:
        """From the first unit given out to the last one done."""
        return self.done[-1] - self.given[0]


def one_actor() -> psutil.Process:
    """A replica's process; Ray names its workers after what they run."""
    found = psutil.Process().children(recursive=True)
    return next(child for child in found if any(ACTOR in part for part in child.cmdline()))


def recipe(runs: Path, name: str, arguments: argparse.Namespace, replicas: int) -> Recipe:
    """Modules of the standard library, labelled by the shipped code model on `replicas` cores."""
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(runs),
            "data": {"type": "python_stdlib", "max_samples": arguments.documents},
            "teacher": {"type": "causal_lm", "path": str(TEACHER), "dtype": "bfloat16", "context": 256, "overlap": 64},
            "labels": {"codec": {"type": "threshold", "budget_bytes": 12}, "unit_bytes": arguments.unit_bytes},
            "cluster": {"replicas": replicas},
        }
    )


def in_process(wanted: Recipe) -> float:
    """Seconds of a plain loop over the units of a recipe, one core: no Ray, no policy."""
    import torch

    from cluster.labelling.planning import plan_work
    from cluster.labelling.replica.replica import Replica
    from kdcore.store import open_for_writing, publish_receipt

    torch.set_num_threads(1)
    plan = plan_work(wanted, progress)
    replica = Replica(wanted.model_dump_json(), wanted.store_path)
    open_for_writing(wanted.store_path, {"format": 2, **replica.identity(), "input": plan.input.digest})
    began = time.perf_counter()
    for unit in plan.units:
        publish_receipt(wanted.store_path, replica.label(unit, "loop"))
    return time.perf_counter() - began


def two_at_once(wanted: Sequence[Recipe]) -> float:
    """Seconds that plain loops take in processes of their own, all at once; the slowest counts."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(wanted), mp_context=spawning) as workers:
        return max(workers.map(in_process, wanted))


def on_ray(wanted: Recipe, kill_after: int | None = None) -> Watched:
    """Label a recipe on a cluster of its own; what was seen."""
    seen: list[Watched] = []
    called = time.perf_counter()

    @contextmanager
    def watched(recipe: Recipe, replicas: int) -> Iterator[Pool]:
        with ray_pool(recipe, replicas) as pool:
            seen.append(Watched(pool, kill_after, called))
            yield cast(Pool, seen[0])

    label_store(wanted, on_note=progress, make_pool=watched)
    return seen[0]


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.labelling_speed", description=__doc__)
    parser.add_argument("--documents", type=int, default=120, help="modules of the standard library")
    parser.add_argument("--unit-bytes", type=int, default=32_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    loop: list[float] = []
    one: list[Watched] = []
    two: list[Watched] = []
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        runs = Path(folder)
        for number in range(arguments.rounds):
            loop.append(in_process(recipe(runs, f"loop-{number}", arguments, 1)))
            one.append(on_ray(recipe(runs, f"one-{number}", arguments, 1)))
            two.append(on_ray(recipe(runs, f"two-{number}", arguments, 2)))
            progress(f"loop {loop[-1]:.1f} s, one replica {one[-1].seconds:.1f} s, two {two[-1].seconds:.1f} s")
        pair = two_at_once([recipe(runs, f"pair-{number}", arguments, 1) for number in range(2)])
        killed = on_ray(recipe(runs, "killed", arguments, 2), kill_after=len(two[0].done) // 4)
        labels = load_manifest(recipe(runs, "one-0", arguments, 1).store_path).num_labels
    seconds = {
        "loop": statistics.median(loop),
        "one": statistics.median(run.seconds for run in one),
        "two": statistics.median(run.seconds for run in two),
    }
    headline = {
        "pool_vs_inprocess": round(seconds["loop"] / seconds["one"], 4),
        "two_replica_speedup": round(seconds["one"] / seconds["two"], 4),
        "recover_seconds": round(killed.recovered - killed.killed, 2),
    }
    emit(
        "labelling_speed",
        headline,
        ["python", "-m", "tests.benchmarks.labelling_speed", *(sys.argv[1:])],
        two_loop_speedup=round(2 * seconds["loop"] / pair, 4),
        first_label_seconds=round(statistics.median(run.done[0] - run.called for run in one), 2),
        seconds={name: round(value, 2) for name, value in seconds.items()},
        labels=labels,
        labels_per_second=round(labels / seconds["one"]),
        units=len(one[0].done),
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
