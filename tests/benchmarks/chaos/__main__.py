"""At least `--faults` real faults over repeated labelling runs on a local cluster of several Ray nodes.

Every run is compared with an undisturbed one: all rows, all columns, the bytes of all shards. The last line is JSON;
`rows_wrong` (missing, doubled or different), `shards_different`, `stores_not_verified` and `orphan_processes` must be
0, and no replica that a fault ended may have cost more than the one unit it was at. Exit status 1 otherwise.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.benchmarks.chaos import faults
from tests.benchmarks.chaos.bench import can_mount, open_bench
from tests.benchmarks.chaos.chaos import Tally, disturbed_run, poisoned_run, undisturbed_run
from tests.benchmarks.harness import emit, progress
from tests.support.processes import below

NAN = "poison_nan"
HEADLINE = ("faults", "rows_wrong", "units_recomputed")
# The faults of a run whose store lies in a directory, and of one in a bucket; poison comes last, where it is asked for.
LOCAL_RUN = {
    "actor_kill": 4, "actor_term": 2, "raylet_kill": 2, "node_term": 1, "driver_kill": 1, "driver_term": 1, "pause": 2,
    "stuck": 1, "disk_full": 1, "second_job": 1,
}  # fmt: skip
REMOTE_RUN = {"storage": 18, "actor_kill": 2, "raylet_kill": 1, "driver_kill": 1}


def schedule_of(kinds: list[str], remote: bool, shuffle: random.Random) -> list[str]:
    """The faults of one run in their order."""
    counts = REMOTE_RUN if remote else LOCAL_RUN
    found = [kind for kind, count in counts.items() for _ in range(count) if kind in kinds]
    shuffle.shuffle(found)
    return found + ([faults.LAST] if faults.LAST in kinds and not remote else [])


def measure(folder: Path, documents: int, wanted: int, seed: int, kinds: list[str]) -> Tally:
    """Runs until there were enough faults."""
    tally, shuffle = Tally(), random.Random(seed)
    remote = "storage" in kinds
    with open_bench(folder, documents, seed, bucket=remote, disk="disk_full" in kinds) as bench:
        calm = undisturbed_run(bench)
        progress(f"{len(calm)} units, {bench.replicas} replicas on {len(bench.cluster.workers)} nodes")
        if NAN in kinds:
            poisoned_run(bench, NAN, calm, tally)
        number = 0
        while (left := wanted - tally.by_kind.total()) > 0:
            in_bucket = remote and (number % 2 == 1 or set(kinds) <= set(REMOTE_RUN))
            schedule = schedule_of(kinds, in_bucket, shuffle)
            disturbed_run(bench, f"run{number}", schedule[:left], calm, tally, seed)
            number += 1
            progress(f"{tally.by_kind.total()} of {wanted} faults")
    tally.orphans += len([process for process in below(os.getpid()) if process.name])
    return tally


def main() -> None:
    """Measure, and print the JSON line; exit status 1 when anything is not as promised."""
    kinds = [*faults.KINDS, NAN]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, help="at least so many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedules (default: %(default)s)")
    parser.add_argument(
        "--kinds", nargs="+", choices=kinds, default=kinds, metavar="KIND", help=f"of {', '.join(kinds)}"
    )
    parser.add_argument("--documents", type=int, default=320, help="to label, 2.6 a unit (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="an existing folder with a short path: what was made stays there")
    arguments = parser.parse_args()
    asked = [kind for kind in arguments.kinds if kind != "disk_full" or can_mount()]
    if asked != arguments.kinds:
        progress("disk_full is left out: a small disk can only be mounted by root")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kdc-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        tally = measure(arguments.keep or Path(folder), arguments.documents, arguments.faults, arguments.seed, asked)
    summary = tally.summary()
    headline = {name: summary.pop(name) for name in HEADLINE}
    seconds = round(time.perf_counter() - began)
    command = ["python", "-m", "tests.benchmarks.chaos", *sys.argv[1:]]
    emit("chaos", headline, command, **summary, seconds=seconds, seed=arguments.seed)
    raise SystemExit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
