"""Students that learn from a mix of two stores, for a few steps, as a recipe asks for it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.stages import check_labels, train_in_place
from kdcore import LabelledText, open_mix
from kdcore.config import Recipe
from kdcore.data.sources import open_source
from kdcore.errors import ConfigError, RunMismatch
from kdcore.evaluation.run import evaluate_run
from kdcore.labels import DenseLabels, SoftLabels, SparseLabels
from kdcore.labels.mixing import arithmetic
from kdcore.training.arms import plan_arms
from kdcore.training.task import make_task
from tests.support.training import image_recipe, text_recipe, write_corpus, write_labels


def relabelled(recipe: Recipe, path: Path, codec: dict[str, Any]) -> Recipe:
    labels = recipe.labels.model_dump() | {"path": str(path), "codec": codec}
    return Recipe.model_validate(recipe.model_dump() | {"labels": labels})


def mixed(recipe: Recipe, **mix: Any) -> Recipe:
    tree = recipe.model_dump() | {"teacher": None}
    return Recipe.model_validate(tree | {"labels": {"unit_bytes": recipe.labels.unit_bytes, "mix": mix}})


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Two stores of texts, `a` of drawn and `b` of other drawn labels, and `images-a`, `images-b`."""
    folder = tmp_path_factory.mktemp("mix")
    write_corpus(folder / "corpus")
    texts, images = text_recipe(folder, "texts", teacher=True), image_recipe(folder, "images")
    write_labels(relabelled(texts, folder / "a", {"type": "threshold", "draws": 8}))
    write_labels(relabelled(texts, folder / "b", {"type": "sampled", "draws": 5}), teacher=1)
    write_labels(relabelled(images, folder / "images-a", {"type": "dense"}))
    write_labels(relabelled(images, folder / "images-b", {"type": "dense"}), teacher=1)
    return folder


def stores_of(root: Path, *names: str, weights: tuple[float, ...] = ()) -> list[dict[str, Any]]:
    stores: list[dict[str, Any]] = [{"path": str(root / name)} for name in names]
    for store, weight in zip(stores, weights, strict=False):
        store["weight"] = weight
    return stores


def text_mix(root: Path, name: str, *, training: dict[str, Any] | None = None, **mix: Any) -> Recipe:
    return mixed(text_recipe(root, name, **(training or {})), stores=stores_of(root, "a", "b"), **mix)


def labels_of(recipe: Recipe, indices: list[int]) -> SoftLabels:
    labels = make_task(recipe, plan_arms(recipe)[0]).samples.batch(np.array(indices)).labels
    assert labels is not None
    return labels


def losses(recipe: Recipe) -> list[float]:
    lines = (recipe.run_dir / "arms" / "student-seed0" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_a_student_learns_from_two_stores_of_texts(root):
    recipe = mixed(text_recipe(root, "two"), stores=stores_of(root, "a", "b", weights=(0.25, 0.75)))
    train_in_place(recipe)
    found = losses(recipe)
    assert len(found) == 6
    assert found[-1] < found[0]
    result = json.loads((recipe.run_dir / "arms" / "student-seed0" / "result.json").read_text())
    assert result["uses_labels"]
    assert (recipe.run_dir / "arms" / "baseline-seed0" / "result.json").exists()
    noted = json.loads((recipe.run_dir / "labels-checked.json").read_text())
    assert set(noted) == {str(root / "a"), str(root / "b")}


def test_a_batch_has_the_mean_of_what_both_stores_say(root):
    recipe = mixed(text_recipe(root, "batch"), stores=stores_of(root, "a", "b", weights=(0.25, 0.75)))
    found, singles = labels_of(recipe, [3, 0, 5]), []
    for name in ("a", "b"):
        one = relabelled(text_recipe(root, "one", teacher=True), root / name, {"type": "threshold", "draws": 8})
        singles.append(labels_of(one, [3, 0, 5]))
    wanted = arithmetic(singles, torch.tensor([0.25, 0.75]))
    assert isinstance(found, SparseLabels)
    assert isinstance(wanted, SparseLabels)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.weights, wanted.weights)
    assert torch.equal(found.offsets, wanted.offsets)


def test_another_epoch_hears_another_random_teacher(root):
    for training in ({}, {"batch_size": None, "tokens_per_step": 60}):
        recipe = text_mix(root, "random", rule="random", training={"steps": 30, **training})
        samples = make_task(recipe, plan_arms(recipe)[0]).samples
        assert samples.views is None
        count, first = len(samples), np.arange(len(samples))
        batches = [samples.batch(first + epoch * count) for epoch in (0, 1, 0)]
        assert torch.equal(batches[0].targets, batches[1].targets)
        labels = [batch.labels for batch in batches]
        assert all(isinstance(label, SparseLabels) for label in labels)
        assert torch.equal(labels[0].weights, labels[2].weights)  # pyright: ignore
        assert labels[0].weights.tolist() != labels[1].weights.tolist()  # pyright: ignore
        assert samples.digests(first).tolist() == samples.digests(first + count).tolist()
        assert samples.tokens(first) == samples.tokens(first + count)
    recipe = text_mix(root, "random", rule="random", training={"steps": 8, "seeds": [0]})
    train_in_place(recipe)
    assert len(losses(recipe)) == 8


def test_a_student_learns_from_two_stores_of_images(root):
    recipe = mixed(image_recipe(root, "image-mix"), stores=stores_of(root, "images-a", "images-b"), rule="agreement")
    train_in_place(recipe)
    assert len(losses(recipe)) == 6
    found = evaluate_run(recipe)
    assert found["store"]["codec"]["mix by rule"] == "agreement"
    assert set(found["store"]["bytes_per_label"]) == {str(root / "images-a"), str(root / "images-b")}
    assert set(found["models"]) == {"student-seed0", "baseline-seed0"}


def test_images_of_another_epoch_hear_another_random_teacher(root):
    recipe = mixed(image_recipe(root, "image-random"), stores=stores_of(root, "images-a", "images-b"), rule="random")
    first = np.arange(len(make_task(recipe, plan_arms(recipe)[0]).samples))
    one, other = (labels_of(recipe, (first + epoch * len(first)).tolist()) for epoch in (0, 1))
    assert isinstance(one, DenseLabels)
    assert isinstance(other, DenseLabels)
    differs = (one.log_probs != other.log_probs).any(1).float().mean()
    assert 0.3 < float(differs) < 0.7


def test_losses_by_name_take_a_mix_that_has_what_they_need(root):
    terms = [{"type": "kl", "temperature": 2.0}, {"type": "dkd"}]
    images = image_recipe(root, "by-name", losses=terms)
    recipe = mixed(images, stores=stores_of(root, "images-a", "images-b"))
    train_in_place(recipe)
    assert len(losses(recipe)) == 6
    assert open_source(recipe.data).kind == "image"
    features = mixed(
        image_recipe(root, "by-feature", losses=[{"type": "fitnet", "at": "0", "teacher_at": "0"}]),
        stores=stores_of(root, "images-a", "images-b"),
    )
    with pytest.raises(ConfigError, match=r"'fitnet' needs features of 0, but labels\.mix"):
        make_task(features, plan_arms(features)[0])


def test_a_loss_that_is_not_linear_in_the_teacher_refuses_a_mix_of_draws(root):
    recipe = text_mix(root, "reverse", training={"loss": {"type": "reverse_kl"}})
    with pytest.raises(ConfigError, match=r"labels that are weights.*not linear"):
        make_task(recipe, plan_arms(recipe)[0])


def test_a_run_whose_store_was_replaced_is_not_continued(root, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(root / name)
    recipe = mixed(text_recipe(root, "replaced"), stores=stores_of(tmp_path, "a", "b"))
    recipe.run_dir.mkdir(parents=True)
    check_labels(recipe)
    check_labels(recipe)
    (tmp_path / "b").unlink()
    (tmp_path / "b").symlink_to(root / "a")
    with pytest.raises(RunMismatch, match="another store at"):
        check_labels(recipe)


def test_a_recipe_with_a_mix_has_no_teacher_and_no_codec(root):
    with pytest.raises(ValueError, match="leave `teacher` out"):
        Recipe.model_validate(text_mix(root, "x").model_dump() | {"teacher": {"type": "causal_lm", "path": "y"}})
    for extra in ({"codec": {"type": "dense"}}, {"path": "z"}):
        with pytest.raises(ValueError, match=f"leave {next(iter(extra))} out"):
            Recipe.model_validate(
                text_recipe(root, "x").model_dump()
                | {"teacher": None, "labels": {"mix": {"stores": stores_of(root, "a", "b")}, **extra}}
            )


def test_a_dataset_of_ones_own_loop_takes_a_mix(root):
    data = LabelledText(open_mix([str(root / "a"), str(root / "b")]), None, sequence_length=32, long_documents="cut")
    batch = data.collate([data[0], data[1]])
    assert isinstance(batch.labels, SparseLabels)
    assert batch.labels.num_labels == len(batch.positions)
