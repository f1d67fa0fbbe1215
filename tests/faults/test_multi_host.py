"""Two Ray hosts with addresses of their own, one cut off while it labels, and healed: the store is the undisturbed one.

The isolated replica goes on with the unit it has, and writes its shard where the others can see it. Nobody can hear of
it: the unit is labelled again, and that shard is garbage.
"""

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdcore.store import collect_garbage, verify_store
from tests.benchmarks.chaos import material
from tests.benchmarks.chaos.bench import open_bench
from tests.benchmarks.chaos.chaos import store_of, undisturbed_labels
from tests.benchmarks.chaos.cluster import Node
from tests.benchmarks.chaos.network import Network, missing_for_network, open_network
from tests.benchmarks.chaos.rows import content_of
from tests.benchmarks.chaos.run import FINISHED, Bench, Run
from tests.support.labelling_runs import in_process
from tests.support.processes import unfinished, until

pytest.importorskip("ray")
pytest.importorskip("transformers")

pytestmark = pytest.mark.long

DOCUMENTS = 100


@pytest.fixture
def network() -> Iterator[Network]:
    missing = missing_for_network()
    if missing:
        pytest.skip(missing)
    with open_network(2) as found:
        yield found


@pytest.fixture
def bench(network: Network) -> Iterator[Bench]:
    with (
        tempfile.TemporaryDirectory(prefix="kdc-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        open_bench(Path(folder), DOCUMENTS, hosts=network.hosts) as bench,
    ):
        yield bench


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused replica is not replaced while the test needs it."""
    made = material.recipe

    def recipe(*given: Any) -> dict[str, Any]:
        settings = made(*given)
        return {**settings, "labels": {**settings["labels"], "stuck_seconds": 600}}

    monkeypatch.setattr(material, "recipe", recipe)


def stopped_at_a_unit(run: Run, node: Node) -> tuple[int, Path]:
    """The replica of a node, paused in the middle of a unit, and the shard that it will write."""
    found: list[tuple[int, Path]] = []

    def stop() -> bool:
        assert not run.over(), run.drivers[0].told()
        for actor in node.actors():
            os.kill(actor.pid, signal.SIGSTOP)
            held = [Path(name) for name in unfinished(actor.pid)]
            if held:
                name = held[0].name.removeprefix(".").removesuffix(".partial")
                found.append((actor.pid, held[0].with_name(name)))
                return True
            os.kill(actor.pid, signal.SIGCONT)
        return False

    until(stop, "a replica is in the middle of a unit")
    return found[0]


def works(node: Node) -> bool:
    return any(unfinished(actor.pid) for actor in node.actors())


@pytest.mark.usefixtures("patient")
@pytest.mark.timeout(600)
def test_a_host_that_is_cut_off_and_healed_doubles_nothing(bench: Bench, network: Network) -> None:
    calm = undisturbed_labels(bench, in_process)
    run = Run(bench, "cut", store_of(bench, "cut"), calm, random.Random(0))
    run.begin()
    assert run.advance(2)
    near, far = bench.cluster.workers
    waiting, _ = stopped_at_a_unit(run, near)  # so that there is work left when the other host is back
    isolated, shard = stopped_at_a_unit(run, far)

    network.cut(network.hosts[1])
    os.kill(isolated, signal.SIGCONT)
    until(shard.exists, "the isolated replica writes its shard")
    until(
        lambda: any(event["event"] == "ReplicaDied" for event in run.drivers[0].events()), "Ray gives the host up", 120
    )
    assert not shard.name.startswith(tuple(run.receipts()))

    network.heal(network.hosts[1])
    until(lambda: far.process.poll() is not None, "the node that was given up ends when it hears of it", 120)
    back = bench.cluster.add_worker(network.hosts[1])
    until(lambda: back.actors(), "a replica begins on the healed host")
    os.kill(waiting, signal.SIGCONT)  # before the other is idle, which would label this one's unit in its place
    until(lambda: works(back), "the healed host labels again")
    run.drivers[0].wait(FINISHED)

    assert content_of(run.store) == calm
    # A spare of a late unit may be at work when the job ends, and is cut off in its file.
    assert [file for file in run.leftovers() if not file.name.endswith(".partial")] == [shard]
    assert f"data/{shard.name}" in collect_garbage(run.store, min_age_seconds=0)
    assert run.leftovers() == []
    report = verify_store(run.store)
    assert (report.ok, report.notes) == (True, [])
