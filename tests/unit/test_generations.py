"""The runs between generations of made samples, as their workers are told them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import stages
from jobs.generations import _recipe_between, make_samples
from jobs.precompute import precompute
from jobs.train import train
from kdcore.config import Recipe
from kdcore.config.load import load_recipe
from kdcore.runs import begin_run

TEXT: dict[str, Any] = {
    "data": {"type": "text", "path": "x"},
    "teacher": {"type": "causal_lm", "path": "models/stdlib-lm-4m"},
    "student": {"type": "causal_lm", "architecture": {"model_type": "llama"}, "tokenizer": "models/stdlib-lm-4m"},
    "synthesis": {"type": "self_generation", "samples": 4, "generations": 3},
}
IMAGES: dict[str, Any] = {
    "data": {"type": "digits"},
    "teacher": {"type": "image_classifier", "source": "lenet", "path": "teacher"},
    "student": {"type": "image_classifier", "source": "lenet"},
    "synthesis": {"type": "dafl", "samples": 4, "generations": 3},
}


@pytest.mark.parametrize("kind", [TEXT, IMAGES], ids=["text", "images"])
def test_a_student_goes_on_from_where_the_last_one_was(kind: dict[str, Any]) -> None:
    asked = Recipe.model_validate({"name": "made", "runs": "runs", "training": {"steps": 2}, **kind})
    for generation, student in enumerate([None, "runs/made/generation-000/students/student-seed0"]):
        between = _recipe_between(asked, generation, student)
        told = Recipe.model_validate_json(between.model_dump_json())
        assert told == between
        assert told.student is not None
        assert told.student.path == student
        assert told.student.type == kind["student"]["type"]
        assert told.run_dir == asked.run_dir / f"generation-{generation:03d}"


def test_training_in_place_goes_on_with_the_run_that_made_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, trained = tmp_path / "recipe.yaml", list[Recipe]()
    path.write_text(yaml.safe_dump({"name": "made", "runs": str(tmp_path), "training": {"steps": 2}, **IMAGES}))
    begin_run(load_recipe(path))
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("kdcore.store.manifest.is_finished", lambda place: True)
    monkeypatch.setattr("jobs.stages.check_labels", lambda recipe: None)
    monkeypatch.setattr("kdcore.training.run.run_arms", lambda recipe, arms: trained.append(recipe))
    train(str(path))
    assert [recipe.data.type for recipe in trained] == ["synthesised_images"]


@pytest.mark.parametrize(("live", "wanted"), [(None, ["label", "train"]), ("it runs beside them", ["train"])])
def test_students_are_trained_between_generations_that_ask_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str | None, wanted: list[str]
) -> None:
    done = list[str]()
    monkeypatch.setattr("cluster.synthesis.run.synthesize", lambda recipe, generation: done.append(f"{generation}"))
    monkeypatch.setattr(stages, "live_teacher", lambda recipe: live)
    monkeypatch.setattr(stages, "label", lambda recipe: done.append("label"))
    monkeypatch.setattr(stages, "train_arms", lambda recipe: done.append("train"))
    tree = {"name": "made", "runs": str(tmp_path), "training": {"steps": 2}, **IMAGES}
    begin_run(Recipe.model_validate(tree))
    make_samples(Recipe.model_validate(tree))
    assert done == ["0", "1", "2"], "nobody asks a student of plain dafl"
    done.clear()
    make_samples(Recipe.model_validate({**tree, "synthesis": {**IMAGES["synthesis"], "adversarial": 1}}))
    assert done == ["0", *wanted, "1", *wanted, "2"]


def test_a_dry_run_of_labelling_says_what_is_to_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "made", "runs": str(tmp_path), **IMAGES}))
    precompute(str(path), ["synthesis.generations=1"], dry_run=True)
    assert "4 in each of 1 generation(s)" in capsys.readouterr().out
