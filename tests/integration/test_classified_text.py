"""Encoders end to end: labels by actors, a student from them, its report; and the tools that read a store."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.labelling.run import label_store
from kdcore.config.load import dump_recipe
from kdcore.evaluation.run import evaluate_run
from kdcore.runs import begin_run
from kdcore.store import open_store
from kdcore.students.export import load_student
from kdcore.teachers.text_classifier import TextClassifierTeacher
from kdcore.training.arms import plan_arms
from kdcore.training.run import run_arms
from tests.support.classified_runs import classified_recipe

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    made = classified_recipe(tmp_path_factory.mktemp("classified"))
    begin_run(made)
    label_store(made)
    return made


def test_labels_are_the_teachers(recipe):
    store = open_store(recipe.store_path)
    assert store.kind == "classified_text"
    lines = [json.loads(line) for line in Path(recipe.data.path).read_text().splitlines()]
    teacher = TextClassifierTeacher(recipe.teacher, 2)
    texts = {line["text"]: line["label"] for line in lines}
    assert store.num_rows <= len(texts)
    wanted = {text: teacher.logits(teacher.encode([(text, None)])).log_softmax(1)[0] for text in texts}
    labels = store.labels_of(range(store.num_rows), [0] * store.num_rows, [1] * store.num_rows)
    for row in range(store.num_rows):
        (text,) = [text for text in texts if _key(text) == store.key(row)]
        assert int(store.targets()[row]) == texts[text]
        torch.testing.assert_close(labels.log_probs[row], wanted[text], atol=2e-3, rtol=1e-3)


def _key(text):
    from kdcore.data.document import ClassifiedText
    from kdcore.data.keys import sample_key

    return sample_key(ClassifiedText("", text, None, None))


def test_a_student_learns_is_exported_and_measured(recipe):
    results = run_arms(recipe, plan_arms(recipe))
    assert {"student-seed0", "baseline-seed0"} == set(results)
    found = evaluate_run(recipe)
    assert found["kind"] == "classified_text"
    assert set(found["models"]) == {"teacher", "student-seed0", "baseline-seed0"}
    for arm in results:
        assert 0 <= found["models"][arm]["quality"]["agreement"] <= 1
    folder = recipe.run_dir / "arms" / "student-seed0" / "student"
    model = load_student(folder)
    assert model.config.num_labels == 2
    assert "pipeline_tag: text-classification" in (folder / "README.md").read_text()
    lines = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite([line["loss"] for line in lines]).all()


def test_a_student_learns_from_stored_logits_and_hidden_states(tmp_path):
    layers = ["bert.encoder.layer.1", "logits"]
    hidden = {"type": "hidden_states", "at": "bert.encoder.layer.0", "teacher_at": layers[0], "tokens": "first"}
    training = {"steps": 2, "batch_size": 4, "baseline": False, "live_teacher": False, "log_every_steps": 1}
    labels = {"unit_bytes": 1500, "codec": {"type": "feature", "layers": layers}}
    made = classified_recipe(tmp_path, labels=labels, training={**training, "losses": [{"type": "kl"}, hidden]})
    begin_run(made)
    label_store(made)
    run_arms(made, plan_arms(made))
    lines = (made.run_dir / "arms" / "student-seed0" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)[f"loss/{name}"] > 0 for line in lines for name in ("kl", "hidden_states"))


def test_the_tools_know_such_stores(recipe, tmp_path):
    def kd(*arguments):
        done = subprocess.run([sys.executable, "-m", "jobs.main", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    path = recipe.store_path
    assert "classified_text" in kd("store", "info", path)
    assert "target" in kd("store", "sample", path, "--rows", "1")
    kd("store", "verify", path)
    kd("store", "compact", path, str(tmp_path / "compact"))
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert "label store" in kd("distill", str(file), "--dry-run")
