"""SIGKILL of one worker of Ray Train: with max_failures training goes on from the last checkpoint."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.training import fit_on_ray
from kdcore.config import Recipe
from kdcore.training.arms import Arm
from kdcore.training.checkpoint import latest_checkpoint
from tests.support.processes import below, until
from tests.support.training import text_recipe, write_corpus

pytest.importorskip("ray")

ARM = Arm("student-seed0", 0, uses_labels=False)
STEPS, EVERY = 400, 10


def lines(arm: Path) -> list[dict[str, Any]]:
    path = arm / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_worker_that_is_killed_is_replaced_and_the_run_goes_on(tmp_path: Path):
    write_corpus(tmp_path / "corpus")
    tree = text_recipe(tmp_path, "killed", steps=STEPS, checkpoint={"every_steps": EVERY}).model_dump(mode="json")
    recipe = Recipe.model_validate({**tree, "cluster": {"workers": 2, "max_failures": 1}})
    arm, seen = ARM.directory(recipe), {}

    def kill() -> None:
        until(lambda: latest_checkpoint(arm / "checkpoints", lambda note: None) >= 2 * EVERY, "no checkpoint came")
        workers = [process for process in below(os.getpid()) if "RayTrainWorker" in process.name]
        seen.update(workers=len(workers), first=lines(arm)[0], step=len(lines(arm)))
        os.kill(workers[-1].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    results = fit_on_ray(recipe, [ARM])
    killer.join()
    assert seen["workers"] == 2
    assert 2 * EVERY <= seen["step"] < STEPS
    assert results[ARM.name]["steps"] == STEPS
    assert [line["step"] for line in lines(arm)] == list(range(1, STEPS + 1))
    # The lines before the checkpoint are the first workers': training did not begin again.
    assert lines(arm)[0] == seen["first"]
