"""The chaos benchmark, cut short: a few real faults on a real cluster, and the store is the undisturbed one.

`python -m tests.benchmarks.chaos` is the long version.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.chaos.bench import can_mount, open_bench
from tests.benchmarks.chaos.chaos import Tally, disturbed_run, undisturbed_labels
from tests.benchmarks.chaos.run import Bench
from tests.support.labelling_runs import in_process
from tests.support.processes import below, until

pytest.importorskip("ray")
pytest.importorskip("transformers")

pytestmark = pytest.mark.long

DOCUMENTS = 110
SCHEDULE = ["actor_kill", "raylet_kill", "pause", "actor_kill", "driver_kill", "poison"]


@pytest.fixture
def bench() -> Iterator[Bench]:
    disk = can_mount()
    with (
        tempfile.TemporaryDirectory(prefix="kdc-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        open_bench(Path(folder), DOCUMENTS, disk=disk) as bench,
    ):
        yield bench
    until(lambda: not [process for process in below(os.getpid()) if "/raylet" in process.name], "no raylet is left", 30)


@pytest.mark.timeout(600)
def test_a_run_under_several_faults_gives_the_undisturbed_store(bench: Bench) -> None:
    tally, calm = Tally(), undisturbed_labels(bench, in_process)
    disturbed_run(bench, "short", SCHEDULE, calm, tally, seed=0)
    assert tally.failures == []
    assert tally.by_kind == {"actor_kill": 2, "raylet_kill": 1, "pause": 1, "driver_kill": 1, "poison": 3}
    assert (tally.missing, tally.doubled, tally.different) == (0, 0, 0)
    assert tally.shards_different == 0
    assert tally.unverified == 0
    assert tally.lost_beyond == 0
    assert tally.recomputed > 0
