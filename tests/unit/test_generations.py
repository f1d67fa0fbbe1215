"""The runs between generations of made samples, as their workers are told them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.generations import _recipe_between
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
