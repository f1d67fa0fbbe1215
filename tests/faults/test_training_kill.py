"""SIGKILL in the middle of training; the rerun ends where an undisturbed run ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdcore.training.arms import Arm
from kdcore.training.checkpoint import latest_checkpoint
from kdcore.training.run import run_arms
from tests.support.training import distilled_images, text_recipe, write_corpus, write_image_teacher

REPO = Path(__file__).parents[2]
ARM = Arm("student-seed0", 0, uses_labels=False)
SETTINGS = {"steps": 14, "checkpoint": {"every_steps": 3, "keep": 2}}
DEEPSPEED = {"engine": {"type": "deepspeed", "zero_stage": 1}}
# Sleeps after each reported step, so that the kill lands inside the run and not after it.
PROGRAM = """
import json, sys, time
from pathlib import Path
from tests.support import training
from kdcore.training.arms import Arm
from kdcore.training.run import run_arms
recipe = getattr(training, sys.argv[4])(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3]))
run_arms(recipe, [Arm("student-seed0", 0, uses_labels=recipe.teacher is not None)], lambda progress: time.sleep(0.3))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("kill")
    write_corpus(root / "corpus")
    return root


def start_and_end(
    root: Path, name: str, settings: dict, lines: int, end: signal.Signals = signal.SIGKILL, recipe: str = "text_recipe"
) -> int:
    """Runs until `lines` steps are logged, then sends the signal; returns the exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", PROGRAM, str(root), name, json.dumps(settings), recipe]
    metrics = root / "runs" / name / "arms" / ARM.name / "metrics.jsonl"
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 150
        while not metrics.exists() or len(metrics.read_text().splitlines()) < lines:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(end)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def outcome_lines(root: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (root / "runs" / name / "arms" / ARM.name / "metrics.jsonl").open()]


def outcome(root: Path, name: str):
    lines = outcome_lines(root, name)
    student = root / "runs" / name / "arms" / ARM.name / "student"
    return (
        [line["step"] for line in lines],
        [line["loss"] for line in lines],
        load_file(student / "model.safetensors"),
    )


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_a_killed_run_continues_to_the_same_student(root, engine):
    if engine == "deepspeed":
        pytest.importorskip("deepspeed")
    settings = SETTINGS | (DEEPSPEED if engine == "deepspeed" else {})
    whole, broken = f"whole-{engine}", f"broken-{engine}"
    run_arms(text_recipe(root, whole, **settings), [ARM])
    start_and_end(root, broken, settings, lines=8)
    checkpoints = root / "runs" / broken / "arms" / ARM.name / "checkpoints"
    assert latest_checkpoint(checkpoints, print) >= 6
    said: list[str] = []
    run_arms(text_recipe(root, broken, **settings), [ARM], lambda progress: said.append(str(progress)))
    assert any("resumed after step" in text for text in said)
    steps, losses, weights = outcome(root, broken)
    wanted_steps, wanted_losses, wanted_weights = outcome(root, whole)
    assert steps == wanted_steps == list(range(1, 15))
    assert losses == pytest.approx(wanted_losses, rel=1e-6)
    for key, value in wanted_weights.items():
        assert (weights[key] - value).norm() <= 1e-5 * value.norm(), key


def test_a_killed_run_goes_on_with_the_same_projectors_and_memory(root):
    at = {"at": "2", "teacher_at": "blocks.2"}
    losses = [{"type": "cross_entropy"}, {"type": "fitnet", **at}, {"type": "crd", **at, "negatives": 16}]
    settings, arm = SETTINGS | {"batch_size": 48, "losses": losses}, Arm(ARM.name, 0, uses_labels=True)
    write_image_teacher(root)
    run_arms(distilled_images(root, "whole-losses", **settings), [arm])
    start_and_end(root, "broken-losses", settings, lines=8, recipe="distilled_images")
    run_arms(distilled_images(root, "broken-losses", **settings), [arm])
    (steps, losses, weights), wanted = outcome(root, "broken-losses"), outcome(root, "whole-losses")
    assert steps == wanted[0] == list(range(1, 15))
    assert losses == pytest.approx(wanted[1], rel=1e-6)
    assert all(torch.equal(weights[key], value) for key, value in wanted[2].items())


def test_a_torn_checkpoint_falls_back_to_the_one_before(root):
    start_and_end(root, "torn", SETTINGS, lines=8)
    checkpoints = root / "runs" / "torn" / "arms" / ARM.name / "checkpoints"
    newest = max(checkpoints.glob("step-*"))
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    said: list[str] = []
    run_arms(text_recipe(root, "torn", **SETTINGS), [ARM], lambda progress: said.append(str(progress)))
    assert any(newest.name in text and "not complete" in text for text in said)
    assert any("resumed after step" in text for text in said)
    run_arms(text_recipe(root, "untorn", **SETTINGS), [ARM])
    assert outcome(root, "torn")[1] == pytest.approx(outcome(root, "untorn")[1], rel=1e-6)


def test_another_engines_checkpoint_is_refused_with_the_remedy(root):
    pytest.importorskip("deepspeed")
    from kdcore.errors import CheckpointError

    start_and_end(root, "other", SETTINGS, lines=5)
    with pytest.raises(CheckpointError, match=r"training\.engine"):
        run_arms(text_recipe(root, "other", **SETTINGS, **DEEPSPEED), [ARM])


def test_told_to_end_it_saves_the_step_it_is_at_and_says_143(root):
    settings = SETTINGS | {"checkpoint": {"every_steps": 100, "keep": 2}}
    assert start_and_end(root, "told", settings, lines=5, end=signal.SIGTERM) == 143
    checkpoints = root / "runs" / "told" / "arms" / ARM.name / "checkpoints"
    saved = latest_checkpoint(checkpoints, print)
    assert saved == len(outcome_lines(root, "told")) >= 5
    run_arms(text_recipe(root, "told", **settings), [ARM])
    run_arms(text_recipe(root, "untold", **settings), [ARM])
    assert outcome(root, "told")[1] == pytest.approx(outcome(root, "untold")[1], rel=1e-6)
