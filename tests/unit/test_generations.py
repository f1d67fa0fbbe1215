"""The runs between generations of made samples, as their workers are told them."""

from typing import Any

import pytest

from jobs.generations import _recipe_between
from kdcore.config import Recipe

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
