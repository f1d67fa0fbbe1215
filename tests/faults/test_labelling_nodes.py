"""Replicas, nodes and notices that come and go in real runs on a Ray cluster of several nodes on this machine.

Every run ends with the rows of an undisturbed one. It goes on in a thread; beside it, the test acts when the run has
written something: the record of its events, and the files of `labelling_hooks`.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.connect import import_ray
from cluster.labelling import controller
from cluster.labelling.pool import ray_pool
from kdcore.errors import ResourceError
from kdcore.store import collect_garbage, open_store
from tests.support.labelling_hooks import wait_for
from tests.support.labelling_runs import content, label, orphans
from tests.support.tiny_teacher import write_documents, write_teacher

pytest.importorskip("ray")
pytest.importorskip("transformers")

pytestmark = pytest.mark.long

REPO = Path(__file__).parents[2]
LABELS = {"unit_bytes": 300, "codec": {"type": "threshold", "budget_bytes": 6}}
# A lost node is noticed in seconds instead of half a minute.
QUICK = {"health_check_period_ms": 1_000, "health_check_failure_threshold": 4, "health_check_timeout_ms": 1_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for replicas, and this process connected to it."""
    from cluster.security import token_by_default

    ray = import_ray()
    from ray.cluster_utils import Cluster

    token_by_default()
    paths = [str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
        made = Cluster(initialize_head=True, head_node_args=head)
        hook = {"worker_process_setup_hook": "tests.support.labelling_hooks.set_up"}
        ray.init(address=made.address, runtime_env=hook)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def node(cluster: Any) -> Iterator[Callable[[int], Any]]:
    """Adds nodes of so many CPUs, and removes what is left of them."""
    added: list[Any] = []

    def add(cpus: int) -> Any:
        added.append(cluster.add_node(num_cpus=cpus))
        return added[-1]

    yield add
    for one in added:
        if one in cluster.worker_nodes:
            cluster.remove_node(one, allow_graceful=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nodes")
    write_documents(path / "docs", 24)
    write_teacher(path / "teacher")
    return path


@pytest.fixture(scope="module")
def wanted(folder: Path) -> dict[bytes, Any]:
    """What an undisturbed run says."""
    return content(label(folder, "calm", labels=LABELS))


class Run:
    """A run on the cluster, and what it writes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name, self.path = folder, name, folder / "runs" / name
        self.gate = self.path / "gate"
        self.gate.mkdir(parents=True)

    def close(self) -> None:
        (self.gate / "closed").touch()

    def open(self) -> None:
        (self.gate / "closed").unlink()

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        file = self.path / "labels-events.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        found = [json.loads(line) for line in lines]
        return [event for event in found if not kinds or event["event"] in kinds]

    def taken(self) -> list[tuple[str, str, int]]:
        """Unit, attempt and process of every unit that came to a replica."""
        file = self.gate / "log"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(unit, attempt, int(process)) for unit, attempt, process in map(str.split, lines)]

    def finish(self, act: Callable[[], None], labels: dict[str, Any] | None = None, **cluster: Any) -> Path:
        """The store, when both the run and what goes on beside it have ended."""
        settings = {"labels": {**LABELS, **(labels or {})}, "cluster": {"cpus_per_replica": 1, **cluster}}
        with ThreadPoolExecutor(1) as threads:
            store = threads.submit(label, self.folder, self.name, ray_pool, **settings)
            try:
                act()
            finally:
                for file in self.gate.glob("closed"):  # so that the run ends, whatever happened
                    file.unlink()
            return Path(store.result())


def drain(cluster: Any, node: Any, seconds: float) -> None:
    """What an autoscaler does before it takes a node away."""
    import ray
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    client = ray._raylet.GcsClient(address=cluster.address)  # pyright: ignore[reportAttributeAccessIssue]
    accepted, why = client.drain_node(node.node_id, reason, "a test", int((time.time() + seconds) * 1000))
    assert accepted, why


@pytest.mark.timeout(600)
def test_a_node_that_comes_is_used_and_one_that_is_killed_is_missed(
    cluster: Any, node: Callable[[int], Any], folder: Path, wanted: dict[bytes, Any]
) -> None:
    run = Run(folder, "nodes")
    run.close()
    node(1)

    def act() -> None:
        wait_for(lambda: len(run.taken()) == 1)
        second = node(2)
        wait_for(lambda: len(run.taken()) == 3)
        cluster.remove_node(second, allow_graceful=False)
        wait_for(lambda: len(run.events("ReplicaDied")) == 2)
        run.open()

    store = run.finish(act, replicas={"min": 1, "max": 3})
    assert content(store) == wanted
    assert [event["replica"] for event in run.events("Grow")][:2] == [1, 2]
    lost = {unit for unit, _, process in run.taken()[1:3]}
    assert {event["unit"] for event in run.events("Retry")} == lost
    assert {unit for unit, attempt, _ in run.taken() if attempt == "1"} == lost


@pytest.mark.timeout(600)
def test_a_notice_to_a_process_or_to_its_node_loses_nothing(
    cluster: Any, node: Callable[[int], Any], folder: Path, wanted: dict[bytes, Any]
) -> None:
    run = Run(folder, "notices")
    run.close()
    node(1)
    going = node(1)

    def act() -> None:
        wait_for(lambda: len(run.taken()) == 2)
        drain(cluster, going, 600)
        wait_for(lambda: len(run.events("Drain")) == 1)
        drained = run.events("Drain")[0]["unit"]
        os.kill(next(process for unit, _, process in run.taken() if unit != drained), signal.SIGTERM)
        wait_for(lambda: len(run.events("Drain")) == 2)
        run.open()

    store = run.finish(act, replicas=2)
    assert content(store) == wanted
    assert len(run.events("Shrink")) >= 2
    assert not run.events("Retry", "ReplicaDied", "UnitError", "Replace")
    assert {attempt for _, attempt, _ in run.taken()} == {"0"}
    assert len({process for _, _, process in run.taken()}) == 3  # one more where the process had been, none on the node


@pytest.mark.timeout(600)
def test_a_process_that_was_stopped_is_replaced(
    node: Callable[[int], Any], folder: Path, wanted: dict[bytes, Any]
) -> None:
    run = Run(folder, "stopped")
    run.close()
    node(1)

    def act() -> None:
        wait_for(lambda: len(run.taken()) == 1)
        os.kill(run.taken()[0][2], signal.SIGSTOP)
        run.open()

    store = run.finish(act, labels={"stuck_seconds": 10}, replicas=1)
    assert content(store) == wanted
    assert "labels.stuck_seconds" in run.events("Replace")[0]["reason"]
    assert {process for _, _, process in run.taken()[1:]} != {run.taken()[0][2]}


@pytest.mark.timeout(600)
def test_a_backup_wins_and_what_is_out_of_memory_is_labelled_in_smaller_batches(
    node: Callable[[int], Any], folder: Path, wanted: dict[bytes, Any]
) -> None:
    run = Run(folder, "backup")
    run.close()
    node(2)

    def act() -> None:
        wait_for(lambda: len(run.taken()) == 2)
        (late, _, _), (large, _, _) = run.taken()
        (run.gate / f"hold-{late}").touch()
        (run.gate / f"memory-{large}").write_text("1")
        run.open()

    store = run.finish(act, replicas=2)
    (late, _, first), (large, _, _) = run.taken()[:2]
    assert content(store) == wanted
    assert late in {event["unit"] for event in run.events("Assign") if event["backup"]}
    assert [attempt for unit, attempt, process in run.taken() if unit == late and process != first] == ["1"]
    (shard,) = [receipt.shard for receipt in open_store(store).manifest.shards if receipt.unit == late]
    garbage = orphans(store)
    (lost,) = [name for name in garbage if name.startswith(f"data/{late}-")]
    assert (shard.split("-")[3], lost.split("-")[3]) == ("1", "0")
    assert set(collect_garbage(store, min_age_seconds=0)) == garbage
    assert [event["batch_divisor"] for event in run.events("Assign") if event["unit"] == large] == [2, 4]


@pytest.mark.timeout(600)
def test_a_run_that_has_no_room_left_ends_and_goes_on_when_there_is_some(
    cluster: Any,
    node: Callable[[int], Any],
    folder: Path,
    wanted: dict[bytes, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(folder, "starved")
    run.close()
    only, later = node(1), [0.0]
    monkeypatch.setattr(controller, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later[0]))

    def act() -> None:
        wait_for(lambda: len(run.taken()) == 1)
        cluster.remove_node(only, allow_graceful=False)
        wait_for(lambda: bool(run.events("Replace")) and not import_ray().cluster_resources().get("CPU"))
        later[0] = 500.0
        try:
            wait_for(lambda: bool(run.events("Starved")))
        except TimeoutError:
            node(1)  # so that the run ends
            raise

    with pytest.raises(ResourceError, match=r"(?s)CPU: wanted 1, available 0 of 0 .*cluster\.starved_seconds"):
        run.finish(act, replicas=1, starved_seconds=500)
    node(1)
    assert content(run.finish(lambda: None, replicas=1)) == wanted
