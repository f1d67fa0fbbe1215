"""Losses of features, with parameters and memories of their own, under every engine, with resume at other ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.engine_worker import ARM, start
from tests.support.training import Weights, assert_near, distilled_images, write_image_teacher

pytestmark = pytest.mark.timeout(900)
ENGINES: dict[str, dict[str, Any]] = {
    "torch": {},
    **{f"zero{stage}": {"engine": {"type": "deepspeed", "zero_stage": stage}} for stage in range(4)},
}
LOSSES = [
    {"type": "cross_entropy"},
    {"type": "attention_transfer", "at": "1", "teacher_at": "blocks.2", "weight": 20.0, "warmup": 0.5},
    {"type": "fitnet", "at": "2", "teacher_at": "blocks.2", "weight": 0.5, "until": 0.6},
    {
        "type": "import",
        "name": "tests.support.own_losses:Memory",
        "at": "2",
        "teacher_at": "blocks.2",
        "weight": 0.3,
    },
]
BASE = {"images": True, "batch_size": 16, "steps": 6, "losses": LOSSES, "checkpoint": {"every_steps": 2}}
# In its second micro-batch of each step the last rank has no sample.
UNEVEN = {**BASE, "batch_size": 3, "micro_batch_size": 1}
CRD = {**BASE, "losses": [LOSSES[0], {"type": "crd", "at": "2", "teacher_at": "blocks.2", "negatives": 16}]}
# Losses of single samples, which another number of ranks does not change; steps 4 to 6 see what 1 to 3 remembered.
ALONE = {**BASE, "network": "plain", "batch_size": 64, "losses": [LOSSES[0], {**LOSSES[2], "type": "vid"}, LOSSES[3]]}
MOVED = {"moved-torch": ALONE, "moved-zero2": {**ALONE, **ENGINES["zero2"]}}
KEPT = {"moved-crd": {**CRD, "checkpoint": {"every_steps": 2, "keep": 9}}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    pytest.importorskip("deepspeed")
    root = tmp_path_factory.mktemp("losses")
    write_image_teacher(root)
    whole = {name: {**BASE, **engine} for name, engine in ENGINES.items()}
    whole |= {f"crd-{name}": {**CRD, **engine} for name, engine in ENGINES.items()}
    whole |= {f"bf16-{name}": {**BASE, **engine, "precision": "bfloat16"} for name, engine in ENGINES.items()}
    whole |= {f"uneven-{name}": {**UNEVEN, **engine} for name, engine in ENGINES.items()}
    whole |= {"still-torch": ALONE}
    broken = {f"broken-{name}": {**BASE, **engine} for name, engine in ENGINES.items()}
    stopped = {name: {**settings, "stop_at": 3} for name, settings in (broken | MOVED).items()}
    stopped |= {name: {**settings, "stop_at": 2} for name, settings in KEPT.items()}
    start(root, (2, whole | stopped), (2, broken), (1, MOVED | KEPT))
    return root


def directory(root: Path, name: str) -> Path:
    return root / "runs" / name / "arms" / ARM.name


def column(root: Path, name: str, key: str) -> list[Any]:
    return [json.loads(line)[key] for line in (directory(root, name) / "metrics.jsonl").read_text().splitlines()]


def weights(root: Path, name: str) -> Weights:
    return load_file(directory(root, name) / "student" / "model.safetensors")


def start_weights(root: Path, network: str = "normed") -> Weights:
    from kdcore.training.task import make_task

    torch.manual_seed(ARM.seed)
    return make_task(distilled_images(root, "unused", network, losses=LOSSES), ARM).build().state_dict()


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "torch"])
@pytest.mark.parametrize("kind", ["", "crd-", "uneven-", "bf16-"])
def test_every_engine_goes_the_same_way(trained, kind, name):
    near = 5e-2 if kind == "bf16-" else 1e-3
    for key in ("loss", "cross_entropy"):
        assert column(trained, kind + name, key) == pytest.approx(column(trained, f"{kind}torch", key), rel=near)
    ours, wanted = weights(trained, kind + name), weights(trained, f"{kind}torch")
    assert_near(ours, wanted, start_weights(trained), 0.2 if kind == "bf16-" else 0.01)


@pytest.mark.parametrize("name", ENGINES)
def test_a_stopped_run_goes_on_with_the_same_projectors_and_memory(trained, name):
    assert column(trained, f"broken-{name}", "step") == [1, 2, 3, 4, 5, 6]
    for key in ("loss", "loss/Memory", "loss/fitnet"):
        assert column(trained, f"broken-{name}", key) == pytest.approx(column(trained, name, key), rel=1e-5)
    assert_near(weights(trained, f"broken-{name}"), weights(trained, name), start_weights(trained), 1e-4)


@pytest.mark.parametrize("name", MOVED)
def test_a_run_goes_on_at_another_number_of_ranks_with_its_projectors_and_memory(trained, name):
    for key in ("loss", "loss/Memory", "loss/vid"):
        assert column(trained, name, key) == pytest.approx(column(trained, "still-torch", key), rel=1e-3)
    assert_near(weights(trained, name), weights(trained, "still-torch"), start_weights(trained, "plain"), 0.01)


def test_a_contrast_memory_of_two_ranks_goes_on_with_one(trained):
    """Two further steps of 16 samples, none of them twice, move as many rows of each side as that."""
    saved = directory(trained, "moved-crd") / "checkpoints"
    before, after = (torch.load(saved / f"step-{step:08d}" / "state.pt", weights_only=True)["model"] for step in (2, 4))
    for side in ("student", "teacher"):
        rows = [state[f"losses.methods.1.memories.0.{side}"] for state in (before, after)]
        assert int((rows[0] != rows[1]).any(1).sum()) == 32


def test_a_loss_counts_when_its_weight_says_so(trained):
    attention, hint = (column(trained, "torch", f"loss/{name}") for name in ("attention_transfer", "fitnet"))
    assert [value > 0 for value in attention] == [False, True, True, True, True, True]
    assert [value > 0 for value in hint] == [True, True, True, True, False, False]


def test_exports_hold_the_student_alone_and_its_statistics_of_both_ranks(trained):
    start = start_weights(trained)
    for name in ENGINES:
        found = weights(trained, name)
        assert set(found) == set(start)
        assert not torch.equal(found["1.running_mean"], start["1.running_mean"])
