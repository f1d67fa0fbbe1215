"""Which held-out samples a report is of."""

import json
from typing import Any

import pytest
import torch

from kdcore.config import Recipe
from kdcore.config.models import ImageClassifierConfig
from kdcore.data.sources import open_source
from kdcore.errors import DataError
from kdcore.evaluation import heldout
from kdcore.evaluation.heldout import HeldOut
from kdcore.evaluation.run import evaluate_run
from kdcore.models.image import build_image_model
from kdcore.students.export import export_student

Image = pytest.importorskip("PIL.Image")


def recipe_of(folder, **data: Any) -> Recipe:
    """Three classes of 20 held-out images each, of which a report has 12."""
    for part, count in (("train", 1), ("val", 20)):
        for name in ("ape", "bee", "cow"):
            (folder / part / name).mkdir(parents=True)
            for n in range(count):
                Image.new("RGB", (4, 4), (n, n, ord(name[0]))).save(folder / part / name / f"{n:02}.png")
    paths = {"type": "image_folder", "path": str(folder / "train"), "heldout": str(folder / "val"), "size": 4}
    return Recipe.model_validate(
        {"name": "r", "runs": str(folder / "runs"), "data": {**paths, **data}, "evaluation": {"max_images": 12}}
    )


def test_a_report_on_some_images_is_of_all_classes(tmp_path) -> None:
    recipe, config = recipe_of(tmp_path), ImageClassifierConfig(kwargs={"width": 2, "depth": 1})
    model: Any = build_image_model(config, 3, 3)
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([1.0, 0.0, 0.0])  # whatever it sees is of the first class
    arm = recipe.run_dir / "arms" / "student-seed0"
    export_student(model, arm / "student", image_config=config, num_classes=3, in_channels=3)
    (arm / "result.json").write_text(json.dumps({}))
    quality = evaluate_run(recipe)["models"]["student-seed0"]["quality"]
    assert quality["samples"] == 12
    assert 0.1 < quality["accuracy"] < 0.7


def test_every_pass_has_the_same_images_whatever_memory_holds(tmp_path, monkeypatch) -> None:
    recipe = recipe_of(tmp_path, on_unreadable="skip")
    for path in sorted((tmp_path / "val").glob("*/*.png"))[::2]:
        path.write_bytes(b"none")
    found = HeldOut(recipe, open_source(recipe.data))
    names = [[sample.name for sample in found] for _ in range(2)]
    monkeypatch.setattr(heldout, "_CACHE_BYTES", 200)  # one image
    scarce = HeldOut(recipe, open_source(recipe.data))
    names += [[sample.name for sample in scarce] for _ in range(2)]
    assert names == [names[0]] * 4
    assert len(set(names[0])) == 12
    assert len(scarce._kept) == 1
    for path in (tmp_path / "val").glob("*/*.png"):
        path.write_bytes(b"none")
    with pytest.raises(DataError, match="60 none can be read"):
        _ = HeldOut(recipe, open_source(recipe.data)).first
