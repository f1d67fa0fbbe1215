"""A chain of recipes runs as a person would run it, cut down to two steps a stage."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent.parent
SHORT = ["steps=2", "epochs=null", "batch_size=4", "log_every_steps=1"]


@pytest.mark.timeout(600)
def test_a_chain_runs_and_is_passed_over_once_it_is_finished(tmp_path: Path) -> None:
    training = [f"{part}.{setting}" for part in ("training", "teacher.fit") for setting in SHORT]
    rest = [f"runs={tmp_path}", "training.seeds=[0]", "training.baseline=false", "data.max_samples=64"]
    command = [sys.executable, "-m", "jobs.distill", "configs/many/takd-digits.yaml", *rest, *training]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    for again in (False, True):
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=REPO, env=environment, timeout=290, check=False
        )
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        assert ("finished before" in done.stdout) == again
    folder = tmp_path / "takd-digits"
    stages = json.loads((folder / "chain.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["assistant", "student"]
    assistant, student = (stage["roles"] for stage in stages)
    assert student["teacher"]["loss"]["mean"] == pytest.approx(assistant["student"]["loss"]["mean"], rel=1e-4)
    assert (folder / "chain.md").read_text().startswith("# takd-digits")
