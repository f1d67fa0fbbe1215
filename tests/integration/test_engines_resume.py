"""A run that is stopped and goes on with another number of ranks and micro-batches is the undisturbed run."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from kdcore.training.checkpoint import checkpoint_path, latest_checkpoint
from kdcore.training.run import run_arms
from tests.support.engine_worker import ARM, start, start_weights
from tests.support.training import assert_near, text_recipe, write_corpus, write_labels

pytestmark = pytest.mark.timeout(900)  # dozens of runs in the first test's fixture
DECAY = {"optimizer": {"learning_rate": 1e-2, "weight_decay": 0.1}}
ENGINES = {
    "torch": {},
    **{f"zero{stage}": {"engine": {"type": "deepspeed", "zero_stage": stage}} for stage in range(4)},
}
NARROW = {f"{name}-bf16": ENGINES[name] for name in ("torch", "zero1", "zero3")}
RUNS = {name: {**DECAY, **settings} for name, settings in ENGINES.items()}
RUNS |= {name: {**DECAY, **settings, "precision": "bfloat16"} for name, settings in NARROW.items()}
# SGD, whose steps are as long as its gradients: rounding alone, no first steps that it turns.
SGD = {"type": "sgd", "learning_rate": 0.3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
RUNS |= {f"sgd-{name}": {**settings, "optimizer": SGD} for name, settings in ENGINES.items()}
RUNS["sgd-zero1-bf16"] = {**RUNS["sgd-zero1"], "precision": "bfloat16"}
PLAIN = {"type": "sgd", "learning_rate": 0.3, "momentum": 0.0}  # which has no state
RUNS["plain-sgd-zero2"] = {**RUNS["sgd-zero2"], "optimizer": PLAIN}
WHOLE = {"whole": DECAY, "sgd-whole": {"optimizer": SGD}, "plain-sgd-whole": {"optimizer": PLAIN}}


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """Each run on two ranks to step 2, on one in micro-batches of 2 to step 4, on two to the end at step 6."""
    pytest.importorskip("deepspeed")
    root = tmp_path_factory.mktemp("resume")
    write_corpus(root / "corpus")
    write_labels(text_recipe(root, "labels", teacher=True))
    for name, settings in WHOLE.items():
        run_arms(text_recipe(root, name, teacher=True, **settings), [ARM])
    phases = ((2, {"stop_at": 2}), (1, {"stop_at": 4, "micro_batch_size": 2}), (2, {"micro_batch_size": 1}))
    start(root, *((ranks, {name: run | more for name, run in RUNS.items()}) for ranks, more in phases))
    return root


def directory(root: Path, name: str) -> Path:
    return root / "runs" / name / "arms" / ARM.name


def lines(root: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (directory(root, name) / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_order_losses_and_weights_are_those_of_an_undisturbed_run(resumed, name):
    whole = f"{name.rpartition('sgd-')[0]}sgd-whole" if "sgd" in name else "whole"
    ours, wanted = lines(resumed, name), lines(resumed, whole)
    assert [line["step"] for line in ours] == [1, 2, 3, 4, 5, 6]
    assert [line["samples_digest"] for line in ours] == [line["samples_digest"] for line in wanted]
    near = 2e-2 if name.endswith("bf16") else 2e-4
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in wanted], rel=near)
    weights = load_file(directory(resumed, name) / "student" / "model.safetensors")
    undisturbed = load_file(directory(resumed, whole) / "student" / "model.safetensors")
    assert_near(weights, undisturbed, start_weights(resumed), 0.1 if name.endswith("bf16") else 0.002)


def test_a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_from_it(resumed):
    """Every rank says OutOfSpace where the last one met it (engine_worker sees to that), while the engine writes."""
    runs = {f"full-{name}": {**DECAY, **ENGINES[name]} for name in ("torch", "zero2", "zero3")}
    alone, shared = {"full-torch": runs.pop("full-torch")}, runs  # the torch engine writes on the first rank alone
    full = {"full_at": 3}
    start(resumed, *((n, {name: run | full for name, run in runs.items()}) for n, runs in ((1, alone), (2, shared))))
    for name in (*alone, *shared):
        checkpoints = directory(resumed, name) / "checkpoints"
        assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-00000002"]
        assert latest_checkpoint(checkpoints, pytest.fail) == 2
    start(resumed, (2, alone | shared))
    for name in (*alone, *shared):
        losses = [line["loss"] for line in lines(resumed, name)]
        assert losses == pytest.approx([line["loss"] for line in lines(resumed, "whole")], rel=2e-4)


@pytest.mark.parametrize("name", ["torch", "zero2", "zero3"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_any_file_of_a_checkpoint_that_is_cut_or_gone_means_the_one_before(resumed, tmp_path, name, damage):
    shutil.copytree(directory(resumed, name) / "checkpoints", tmp_path / "whole")
    newest = max((tmp_path / "whole").glob("step-*"))
    names = [path.relative_to(newest) for path in newest.rglob("*") if path.is_file()]
    assert len(names) >= 2
    for number, file in enumerate(names):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", root)
        path, said = root / newest.name / file, []
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.unlink()
        assert checkpoint_path(root, latest_checkpoint(root, said.append)) == root / "step-00000002", file
        assert [newest.name in text for text in said] == [True]
