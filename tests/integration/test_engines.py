"""Every engine and every number of ranks trains the same student."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdcore.training.arms import Arm
from kdcore.training.run import run_arms
from tests.support.training import text_recipe, write_corpus, write_labels

ARM = Arm("student-seed0", 0, uses_labels=True)
STAGES = {f"zero{stage}": {"engine": {"type": "deepspeed", "zero_stage": stage}} for stage in range(4)}
TWO_RANKS = {
    "torch2": {},
    "torch2-micro1": {"micro_batch_size": 1},
    **STAGES,
    "zero2-micro2": {**STAGES["zero2"], "micro_batch_size": 2},
    "torch2-padded": {"packing": False},
    "torch2-tokens": {"micro_batch_tokens": 64},
    **{f"{stage}-tokens": {**STAGES[stage], "micro_batch_tokens": 32} for stage in ("zero1", "zero2", "zero3")},
    "zero1-bf16": {**STAGES["zero1"], "precision": "bfloat16"},
    "torch2-bf16": {"precision": "bfloat16"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """All runs, in one job of two ranks (batch size 6: three ragged sequences a rank) and one process of one."""
    pytest.importorskip("deepspeed")
    root = tmp_path_factory.mktemp("engines")
    write_corpus(root / "corpus")
    write_labels(text_recipe(root, "labels", teacher=True))
    run_arms(text_recipe(root, "torch1", teacher=True), [ARM])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.support.engine_worker", str(root), "2", json.dumps(TWO_RANKS)]
    subprocess.run(command, env=environment, check=True, timeout=280)
    return root


def losses(root: Path, name: str) -> list[float]:
    lines = (root / "runs" / name / "arms" / ARM.name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def weights(root: Path, name: str):
    return load_file(root / "runs" / name / "arms" / ARM.name / "student" / "model.safetensors")


@pytest.mark.parametrize("name", [name for name in TWO_RANKS if not name.endswith("bf16")])
def test_the_losses_and_weights_of_one_rank_are_those_of_two_under_every_engine(trained, name):
    wanted = losses(trained, "torch1")
    assert len(wanted) == 6
    assert wanted[-1] < 0.95 * wanted[0]
    assert losses(trained, name) == pytest.approx(wanted, rel=2e-4)
    ours, theirs = weights(trained, name), weights(trained, "torch1")
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert (ours[key] - value).norm() < 0.02 * value.norm(), key


@pytest.mark.parametrize("name", ["zero1-bf16", "torch2-bf16"])
def test_bfloat16_follows_float32_closely(trained, name):
    assert losses(trained, name) == pytest.approx(losses(trained, "torch1"), rel=2e-2)
    assert all(value.dtype.is_floating_point and value.element_size() == 4 for value in weights(trained, name).values())


def test_a_finished_arm_says_so_and_is_not_trained_again(trained):
    said = []
    before = losses(trained, "torch1")
    run_arms(text_recipe(trained, "torch1", teacher=True), [ARM], said.append)
    assert ["nothing to do" in str(message) for message in said] == [True]
    assert losses(trained, "torch1") == before


def test_a_run_by_tokens_says_what_is_cut_and_what_is_padding(trained):
    said: list[str] = []
    sizes = {"steps": None, "epochs": 1, "batch_size": None, "tokens_per_step": 96, "micro_batch_tokens": 64}
    run_arms(text_recipe(trained, "tokens", teacher=True, **sizes), [ARM], lambda progress: said.append(str(progress)))
    assert any("they are cut" in line for line in said)
    note = next(line for line in said if "padding in the first step" in line)
    assert note.endswith("block-diagonal attention")
    lines = (trained / "runs" / "tokens" / "arms" / ARM.name / "metrics.jsonl").read_text().splitlines()
    shares = [json.loads(line)["padding"] for line in lines]
    assert len(shares) > 5
    assert all(0 <= share < 0.35 for share in shares)
