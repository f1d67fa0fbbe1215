"""Every engine and every number of ranks trains the same student."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kdcore.students.export import load_student
from kdcore.training.run import run_arms
from tests.support.engine_worker import ARM, start, start_weights, write_base
from tests.support.training import Weights, assert_near, text_recipe, write_corpus, write_labels

pytestmark = pytest.mark.timeout(900)  # dozens of runs in the first test's fixture
LORA = {"rank": 4, "alpha": 8.0}
ENGINES: dict[str, dict[str, Any]] = {
    "torch": {},
    **{f"zero{stage}": {"engine": {"type": "deepspeed", "zero_stage": stage}} for stage in range(4)},
}
# Of the way that training went; rounding turns some of AdamW's first steps, which are as long for small gradients.
# Found: under 1e-4; in bfloat16 0.03, with adapters 0.07.
SHARE, SHARE_BFLOAT16 = 0.002, 0.1
# One rank, all at once, in this process. Others must be equal to the one that their name begins with.
WHOLE = {
    "all": {},
    "skip": {"on_bad_step": "skip"},
    "alone": {"batch_size": 1, "steps": 3},
    "lora": {"lora": LORA, "steps": 3},
}
BAD = {"3": "gradient", "5": "loss"}
BFLOAT16 = {"precision": "bfloat16"}
OFFLOADED = {"type": "deepspeed", "zero_stage": 2, "offload_optimizer": "cpu"}


def two_ranks() -> dict[str, dict[str, Any]]:
    """Runs of two ranks: batches of 6 ragged sequences, in which the last rank has two bad steps; of 1, so that a rank
    has no token at all; in bfloat16, activations computed again; in micro-batches of tokens, in some steps more than
    in others; offloaded; with adapters.
    """
    runs = {f"skip-{name}": {**WHOLE["skip"], **engine, "micro_batch_size": 1} for name, engine in ENGINES.items()}
    runs |= {f"skip-bf16-{name}": {**WHOLE["skip"], **engine, **BFLOAT16} for name, engine in ENGINES.items()}
    runs["skip-bf16-offload2"] = {**WHOLE["skip"], "engine": OFFLOADED, **BFLOAT16}
    runs |= {f"alone-{name}": {**WHOLE["alone"], **engine} for name, engine in ENGINES.items()}
    for name, engine in ENGINES.items():
        runs[f"all-bf16-{name}"] = {**engine, **BFLOAT16, "micro_batch_size": 2, "activation_checkpointing": True}
    runs["all-padded"] = {"packing": False}
    runs |= {f"all-tokens-{name}": {**engine, "micro_batch_tokens": 32} for name, engine in ENGINES.items()}
    runs["all-offload2"] = {"engine": OFFLOADED, "micro_batch_size": 2}
    runs["all-offload3"] = {"engine": {**OFFLOADED, "zero_stage": 3, "offload_parameters": "cpu"}}
    runs |= {f"lora-{name}": {**WHOLE["lora"], **ENGINES[name]} for name in ("torch", "zero3")}
    runs |= {f"lora-bf16-{name}": {**WHOLE["lora"], **ENGINES[name], **BFLOAT16} for name in ("zero1", "zero3")}
    return runs


TWO_RANKS = two_ranks()


def injected(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "bad_at": BAD} if "on_bad_step" in settings else settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    pytest.importorskip("deepspeed")
    pytest.importorskip("peft")
    root = tmp_path_factory.mktemp("engines")
    write_corpus(root / "corpus")
    write_labels(text_recipe(root, "labels", teacher=True))
    write_base(root)
    phases = ((1, WHOLE), (2, TWO_RANKS))
    start(root, *((ranks, {name: injected(run) for name, run in runs.items()}) for ranks, runs in phases))
    return root


def directory(root: Path, name: str) -> Path:
    return root / "runs" / name / "arms" / ARM.name


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory(root, name) / "metrics.jsonl").read_text().splitlines()]


def column(root: Path, name: str, key: str) -> list[Any]:
    return [line[key] for line in lines(root, name)]


def result(root: Path, name: str) -> dict[str, Any]:
    return json.loads((directory(root, name) / "result.json").read_text())


def weights(root: Path, name: str) -> Weights:
    return load_file(directory(root, name) / "student" / "model.safetensors")


@pytest.mark.parametrize("name", TWO_RANKS)
def test_losses_norms_and_weights_of_one_rank_are_those_of_two_under_every_engine(trained, name):
    whole = name.split("-")[0]
    near = 2e-2 if "bf16" in name else 2e-4
    assert column(trained, name, "samples_digest") == column(trained, whole, "samples_digest")
    assert column(trained, name, "loss") == pytest.approx(column(trained, whole, "loss"), rel=near)
    norms = column(trained, whole, "gradient_norm")
    assert column(trained, name, "gradient_norm") == pytest.approx(norms, rel=10 * near)
    ours, start = weights(trained, name), start_weights(trained, lora=whole == "lora")
    assert_near(ours, weights(trained, whole), start, SHARE_BFLOAT16 if "bf16" in name else SHARE)
    assert {value.dtype for value in ours.values()} == {torch.float32}


def test_they_learn(trained):
    losses = column(trained, "all", "loss")
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", [name for name in (*WHOLE, *TWO_RANKS) if name.startswith("skip")])
def test_a_step_that_is_bad_on_one_rank_is_left_out_on_all_and_counted(trained, name):
    assert column(trained, name, "step") == [1, 2, 4, 6]
    assert column(trained, name, "skipped_steps") == [0, 0, 1, 2]
    found = result(trained, name)
    assert [entry["step"] for entry in found["bad_steps"]] == [3, 5]
    assert "gradient's norm" in found["bad_steps"][0]["reason"]
    assert "its loss is nan" in found["bad_steps"][1]["reason"]
    assert found["skipped_steps"] == 2


@pytest.mark.parametrize("name", [*WHOLE, *TWO_RANKS])
def test_the_export_is_opened_by_from_pretrained(trained, name):
    from transformers import AutoModelForCausalLM

    student = AutoModelForCausalLM.from_pretrained(directory(trained, name) / "student", dtype=torch.float32)
    assert bool(torch.isfinite(student(input_ids=torch.arange(8)[None]).logits).all())


LORA_RUNS = [name for name in (*WHOLE, *TWO_RANKS) if name.startswith("lora")]


@pytest.mark.parametrize("name", LORA_RUNS)
def test_frozen_weights_are_exported_as_they_were_loaded(trained, name):
    ours, base = weights(trained, name), start_weights(trained, lora=True)
    frozen = [key for key in ours if "_proj" not in key]
    assert any("embed_tokens" in key for key in frozen)
    assert [key for key in frozen if not torch.equal(ours[key], base[key])] == []


@pytest.mark.parametrize("name", LORA_RUNS)
def test_adapters_alone_are_trained_and_the_export_has_them_merged(trained, name):
    import peft
    from transformers import AutoModelForCausalLM

    found, base = result(trained, name), AutoModelForCausalLM.from_pretrained(trained / "base", dtype=torch.float32)
    assert 0 < found["trained_parameters"] < 0.1 * found["parameters"]
    ids = torch.arange(12)[None]
    adapted = peft.PeftModel.from_pretrained(base.eval(), str(directory(trained, name) / "student" / "adapter"))
    merged = load_student(directory(trained, name) / "student")
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-4)
        with adapted.disable_adapter():
            assert not torch.allclose(merged(input_ids=ids).logits, adapted(input_ids=ids).logits, atol=1e-2)


def test_a_finished_arm_says_so_and_is_not_trained_again(trained):
    said: list[Any] = []
    before = column(trained, "all", "loss")
    run_arms(text_recipe(trained, "all", teacher=True), [ARM], said.append)
    assert ["nothing to do" in str(message) for message in said] == [True]
    assert column(trained, "all", "loss") == before
