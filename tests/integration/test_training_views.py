"""A student trained on labels of views, and its baseline: the same views in the same steps, however they are cut."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdcore.config import Recipe
from kdcore.evaluation.run import evaluate_run
from kdcore.students.export import load_student
from kdcore.training.arms import plan_arms
from kdcore.training.run import run_arms
from tests.support.training import assert_near
from tests.support.viewed_runs import label, viewed_recipe, write_teacher

ARMS = ("student-seed0", "baseline-seed0")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("viewed")
    write_teacher(root)
    label(viewed_recipe(root, "store"))
    return root


def train(root: Path, name: str, **training: Any) -> Recipe:
    settings = {
        "steps": 9, "batch_size": 20, "log_every_steps": 1, "optimizer": {"learning_rate": 3e-3},
        "loss": {"hard_weight": 0.5}, **training,
    }  # fmt: skip
    recipe = viewed_recipe(root, name, labels={"path": str(root / "store"), "codec": {"type": "dense", "bits": 8}})
    recipe = Recipe.model_validate({**recipe.model_dump(), "training": settings})
    run_arms(recipe, plan_arms(recipe), lambda progress: None)
    return recipe


def lines(recipe: Recipe, arm: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (recipe.run_dir / "arms" / arm / "metrics.jsonl").read_text().splitlines()]


def weights(recipe: Recipe, arm: str = ARMS[0]) -> dict[str, torch.Tensor]:
    return load_student(recipe.run_dir / "arms" / arm / "student").state_dict()


def test_student_and_baseline_learn_from_the_same_views_however_they_are_cut(root):
    whole = train(root, "whole")
    cut = train(root, "cut", micro_batch_size=7, prefetch=0)
    digests = {name: [line["samples_digest"] for line in lines(whole, name)] for name in ARMS}
    assert digests[ARMS[0]] == digests[ARMS[1]] == [line["samples_digest"] for line in lines(cut, ARMS[0])]
    assert len(set(digests[ARMS[0]])) == 9  # 40 images, 20 a step: other views of the same ones
    start = train(root, "start", steps=1, optimizer={"learning_rate": 1e-9})
    assert_near(weights(cut), weights(whole), weights(start), 1e-3)
    for arm in ARMS:
        values = [line["cross_entropy"] for line in lines(whole, arm)]
        assert all(0 < value < 20 for value in values)
    measured = evaluate_run(whole)  # of whole images
    assert measured["models"][ARMS[0]]["quality"]["samples"] > 5
    assert measured["store"]["labels"] == 3 * measured["store"]["rows"]
