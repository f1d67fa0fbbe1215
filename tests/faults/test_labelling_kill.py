"""SIGKILL the driver during the probe, then a replica actor, then the driver again, in a real run on Ray; or SIGTERM.

The store that comes of it is an undisturbed one's to the bit, and what the kills left is collected.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdcore.store import collect_garbage, verify_store
from tests.support.labelling_hooks import wait_for
from tests.support.labelling_runs import content, label, orphans
from tests.support.processes import actors_of, runs
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("ray")
pytest.importorskip("transformers")

pytestmark = pytest.mark.long

REPO = Path(__file__).parents[2]
LABELS = {"unit_bytes": 600, "codec": {"type": "threshold", "budget_bytes": 6}}
DRIVER = """
import sys
from pathlib import Path
from cluster.labelling.run import label_store
from kdcore.config.recipe import Recipe
label_store(Recipe.model_validate_json(Path(sys.argv[1]).read_text()))
print("FINISHED", flush=True)
"""


def start(folder: Path, name: str) -> tuple[subprocess.Popen[str], Path]:
    """A driver in a process group of its own, and its store."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(recipe(folder, name, labels=LABELS)))
    return launch("-c", DRIVER, str(file)), folder / "runs" / name / "labels"


def launch(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
    )


def wait_for_receipts(driver: subprocess.Popen[str], store: Path, count: int) -> None:
    deadline = time.monotonic() + 200
    while len(list((store / "journal").glob("*.json"))) < count:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, "no receipt came"
        time.sleep(0.02)


def finish(driver: subprocess.Popen[str]) -> str:
    output, _ = driver.communicate(timeout=280)
    assert driver.returncode == 0, output
    assert "FINISHED" in output
    return output


def kill_during_the_probe(driver: subprocess.Popen[str], store: Path) -> None:
    """As soon as there is a replica: it loads the teacher, then makes the probe, then answers."""
    deadline = time.monotonic() + 200
    while not actors_of(driver.pid):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, "no replica came"
        time.sleep(0.02)
    assert not (store / "probe.json").exists()
    driver.kill()
    driver.wait()


@pytest.mark.timeout(900)
def test_killed_replicas_and_drivers_lose_and_double_nothing(tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", 300)
    write_teacher(tmp_path / "teacher")
    calm = Path(label(tmp_path, "calm", labels=LABELS))

    driver, store = start(tmp_path, "killed")
    kill_during_the_probe(driver, store)
    driver, _ = start(tmp_path, "killed")
    wait_for_receipts(driver, store, 3)
    actors = actors_of(driver.pid)
    assert actors, "no replica actor found"
    os.kill(actors[0], signal.SIGKILL)
    wait_for_receipts(driver, store, 8)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not (store / "manifest.json").exists()
    kept = len(list((store / "journal").glob("*.json")))

    again, _ = start(tmp_path, "killed")
    assert f"{kept} of" in finish(again)
    assert content(store) == content(calm)
    assert (store / "probe.json").read_bytes() == (calm / "probe.json").read_bytes()
    found = orphans(store)
    assert set(collect_garbage(store, min_age_seconds=0)) == found
    assert orphans(store) == set()
    assert verify_store(store).ok
    assert content(store) == content(calm)


@pytest.mark.timeout(900)
def test_a_driver_that_is_told_to_end_keeps_what_is_done_and_leaves_no_actor(tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", 120)
    write_teacher(tmp_path / "teacher")
    file = tmp_path / "told.yaml"
    file.write_text(json.dumps(recipe(tmp_path, "told", labels=LABELS)))
    command, store = ["-m", "jobs.precompute", str(file)], tmp_path / "runs" / "told" / "labels"

    driver = launch(*command)
    wait_for_receipts(driver, store, 1)
    actors = actors_of(driver.pid)
    assert actors, "no replica actor found"
    driver.terminate()
    output, _ = driver.communicate(timeout=280)
    assert driver.returncode == 128 + signal.SIGTERM, output
    assert "the same command continues" in output
    assert not (store / "manifest.json").exists()
    kept = {file.name: file.read_bytes() for file in (store / "journal").glob("*.json")}
    assert kept
    wait_for(lambda: not any(map(runs, actors)))

    again = launch(*command)
    output, _ = again.communicate(timeout=280)
    assert again.returncode == 0, output
    assert f"{len(kept)} of" in output
    assert kept.items() <= {file.name: file.read_bytes() for file in (store / "journal").glob("*.json")}.items()
    assert content(store) == content(label(tmp_path, "calm", labels=LABELS))
