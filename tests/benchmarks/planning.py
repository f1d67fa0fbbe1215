"""Planning a corpus of small rows: how fast by 1 and by 2 worker processes, and what the driver holds meanwhile.

`survey_vs_read`: seconds of the survey by one worker, against reading every line and hashing it in one plain loop.
`plan_rss_ratio`: what a list of all samples and keys in the driver takes (as planning did before), against the peak
of the driver of a plan; both without what Python and the imports take. `mb_per_second` is of whole plans by 2 workers.
Every figure comes from a process of its own.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kdcore.config.data import TextData
from kdcore.data.keys import sample_key
from kdcore.data.sources import open_source
from kdcore.identity import new_hash
from kdcore.planning import Asked, Corpus, Planning, make_plan, measure
from tests.benchmarks.harness import REPO, emit, progress

FILES = 8
REPEATED = 0.1
UNIT_BYTES, PROBE = 8 << 20, 16_384


def make_corpus(folder: Path, megabytes: int, seed: int) -> int:
    """JSON lines of 20 to 300 bytes of words, a tenth of them repeated; the number of rows."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnop", k=chance.randint(2, 9))) for _ in range(4000)]
    earlier: list[str] = []
    rows = 0
    for number in range(FILES):
        left = megabytes * 1_000_000 // FILES
        with (folder / f"part{number}.jsonl").open("w") as file:
            while left > 0:
                if earlier and chance.random() < REPEATED:
                    line = chance.choice(earlier)
                else:
                    line = json.dumps({"text": " ".join(chance.choices(words, k=chance.randint(3, 45)))}) + "\n"
                    earlier = [*earlier[-999:], line] if rows % 50 == 0 else earlier
                file.write(line)
                left -= len(line)
                rows += 1
    return rows


def by_processes(count: int) -> Callable[..., Iterator[tuple[int, Any]]]:
    """A map by so many processes, two tasks ahead of each."""
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))

    def run(function: Callable[[Any], Any], tasks: Iterable[Any], /) -> Iterator[tuple[int, Any]]:
        left, pending = enumerate(tasks), dict[Future[Any], int]()
        while True:
            pending |= {pool.submit(function, task): number for number, task in islice(left, 2 * count - len(pending))}
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()

    return run


def read_and_hash(folder: Path) -> dict[str, float]:
    """The plain loop."""
    began = time.perf_counter()
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                state = new_hash()
                state.update(line)
                state.digest()
    return {"seconds": time.perf_counter() - began}


def list_all(folder: Path) -> dict[str, float]:
    """Every sample and key in this process, repeats dropped."""
    before, began = _resident(), time.perf_counter()
    source, first, times = open_source(_data(folder)), {}, {}
    for ref in source.list("train"):
        key = sample_key(source.read(ref))
        first.setdefault(key, ref)
        times[key] = times.get(key, 0) + 1
    return {"seconds": time.perf_counter() - began, "mb": _resident() - before, "distinct": len(first)}


def plan(folder: Path, workers: int) -> dict[str, float]:
    """A plan by so many workers; they are started before the clock is."""
    corpus, survey_ends = Corpus.of(_data(folder)), [0.0]
    run_map = by_processes(workers)
    list(run_map(abs, range(4 * workers)))
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as place:
        before, began = _resident(), time.perf_counter()
        planning = Planning(place, run_map, lambda num_bytes: survey_ends.append(time.perf_counter() - began))
        found = make_plan(Asked(corpus, UNIT_BYTES, PROBE), measure(corpus), planning)
        seconds = time.perf_counter() - began
        plan_bytes = sum(file.stat().st_size for file in Path(place, "plan").iterdir())
    return {
        "seconds": seconds,
        "survey_seconds": survey_ends[-1],
        "mb": _resident() - before,
        "worker_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        "distinct": found.input.num_keys,
        "units": len(found.units),
        "plan_mb": plan_bytes / 1e6,
    }


STEPS: dict[str, Callable[[Path], dict[str, float]]] = {
    "read": read_and_hash,
    "list": list_all,
    "plan-1": lambda folder: plan(folder, 1),
    "plan-2": lambda folder: plan(folder, 2),
}


def _data(folder: Path) -> TextData:
    return TextData(path=str(folder / "*.jsonl"), heldout_fraction=0)


def _resident() -> float:
    """The peak of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _in_a_process(step: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.planning", "--step", step, "--folder", str(folder)]
    text = subprocess.run(command, check=True, cwd=REPO, stdout=subprocess.PIPE, text=True).stdout
    found = {name: round(value, 3) for name, value in json.loads(text).items()}
    progress(f"{step}: {found}")
    return found


def main() -> None:
    """Make the corpus, take the steps, print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.planning", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        print(json.dumps(STEPS[chosen.step](chosen.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        rows = make_corpus(Path(folder), chosen.megabytes, chosen.seed)
        progress(f"{rows:,} rows, {chosen.megabytes} MB")
        found = {step: _in_a_process(step, Path(folder)) for step in STEPS}
    assert found["list"]["distinct"] == found["plan-1"]["distinct"] == found["plan-2"]["distinct"]
    headline = {
        "survey_vs_read": round(found["plan-1"]["survey_seconds"] / found["read"]["seconds"], 2),
        "plan_rss_ratio": round(found["list"]["mb"] / max(found["plan-2"]["mb"], 1.0), 1),
        "mb_per_second": round(chosen.megabytes / found["plan-2"]["seconds"], 1),
        "rows_per_second": round(rows / found["plan-2"]["seconds"]),
        "driver_mb": found["plan-2"]["mb"],
    }
    emit("planning", headline, ["python", "-m", "tests.benchmarks.planning", *sys.argv[1:]], rows=rows, **found)


if __name__ == "__main__":
    main()
