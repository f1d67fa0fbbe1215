"""Training reads a store of the recipe's own teacher, codec and input, or none."""

import json
from pathlib import Path

import pytest

from cluster.labelling.replica.replica import Replica
from cluster.labelling.run import label_store
from cluster.labelling.twin import InProcessPool
from jobs.stages import check_labels
from kdcore.config.recipe import Recipe
from kdcore.errors import IdentityMismatch
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")


def test_the_labels_of_another_teacher_are_not_trained_on(tmp_path: Path) -> None:
    from contextlib import contextmanager

    @contextmanager
    def pool(wanted: Recipe, replicas: int):
        yield InProcessPool(lambda: Replica(wanted.model_dump_json(), wanted.store_path))

    write_documents(tmp_path / "docs", 6)
    write_teacher(tmp_path / "teacher")
    mine = Recipe.model_validate(recipe(tmp_path, "mine"))
    mine.run_dir.mkdir(parents=True)
    label_store(mine, lambda note: None, pool)
    check_labels(mine)
    noted = json.loads((mine.run_dir / "labels-checked.json").read_text())
    labels = {**recipe(tmp_path, "x")["labels"], "path": mine.store_path}
    teacher = recipe(tmp_path, "x")["teacher"] | {"context": 20}
    other = Recipe.model_validate(recipe(tmp_path, "other", labels=labels, teacher=teacher))
    other.run_dir.mkdir(parents=True)
    with pytest.raises(IdentityMismatch, match=r"numerics\.context"):
        check_labels(other)
    assert not (other.run_dir / "labels-checked.json").exists()
    same = Recipe.model_validate(recipe(tmp_path, "same", labels=labels))
    same.run_dir.mkdir(parents=True)
    check_labels(same)
    assert json.loads((same.run_dir / "labels-checked.json").read_text()) == noted
