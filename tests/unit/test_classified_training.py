"""Students that classify texts and what they are taught by: a store, the live teacher, its hidden states."""

import numpy as np
import pytest
import torch

from cluster.estimate.run import estimate
from kdcore.config import Recipe
from kdcore.data.sources import open_source
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import ConfigError, TeacherError, TokenizerMismatch
from kdcore.labels.soft_labels import DenseLabels
from kdcore.students.build import build_classified_text_student, checkpoint_activations
from kdcore.students.export import export_student, load_student
from kdcore.teachers.text_classifier import TextClassifierTeacher
from kdcore.training.arms import plan_arms, teacher_arm, with_fitted_teacher
from kdcore.training.classified_samples import ClassifiedTextSamples, classified_text_samples
from kdcore.training.model import DistillModel
from kdcore.training.run import run_arms
from kdcore.training.task import Task, compose_task, make_task
from tests.support.classified_runs import classified_recipe
from tests.support.encoders import ARCHITECTURE, make_tokenizer

ATTENTION = "bert.encoder.layer.{}.attention.self.{}"
LAYER = "bert.encoder.layer.{}"
LOSSES = [
    {"type": "kl", "temperature": 2.0},
    {"type": "pkd", "at": LAYER.format(0), "teacher_at": LAYER.format(1)},
    {"type": "fitnet", "at": LAYER.format(0), "teacher_at": LAYER.format(1)},
    {"type": "rkd", "at": LAYER.format(0), "teacher_at": LAYER.format(1)},
    {
        "type": "hidden_states",
        "at": ["bert.embeddings", LAYER.format(0)],
        "teacher_at": ["bert.embeddings", LAYER.format(1)],
    },
    {
        "type": "attention_scores",
        "at": [ATTENTION.format(0, part) for part in ("query", "key")],
        "teacher_at": [ATTENTION.format(1, part) for part in ("query", "key")],
        "heads": 2,
    },
    {"type": "minilm", "at": ATTENTION.format(0, "value"), "teacher_at": ATTENTION.format(1, "value"), "heads": 2},
]


def _recipe(root, losses=LOSSES, **changes):
    training = {"steps": 2, "batch_size": 4, "losses": losses}
    return classified_recipe(root, **{"training": training, **changes})


def _model(recipe):
    arm = plan_arms(recipe)[0]
    task = make_task(recipe, arm)
    student = task.build()
    composition = compose_task(recipe, arm, task, student, torch.device("cpu"))
    return task, DistillModel(student, recipe.training, True, composition)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return _recipe(tmp_path_factory.mktemp("classified"))


def test_losses_of_transformers_reach_the_student(recipe):
    task, model = _model(recipe)
    assert "the teacher runs beside the student" in task.samples.notes[-1]
    loss, metrics = model(task.samples.batch(np.arange(4)))
    loss.backward()
    assert {"loss/kl", "loss/pkd", "loss/hidden_states", "loss/attention_scores", "loss/minilm"} <= set(metrics)
    assert all(float(metrics[name]) > 0 for name in metrics if name.startswith("loss/"))
    query = model.student.get_parameter("model.bert.encoder.layer.0.attention.self.query.weight")
    assert float(query.grad.abs().sum()) > 0


def test_padding_teaches_nothing(recipe):
    """Two texts together lose what each loses alone, whatever the longer one pads the shorter one with."""
    task, model = _model(recipe)
    model.eval()
    lengths = [int(task.samples.batch(np.array([row])).mask.sum()) for row in range(len(task.samples))]
    pair = np.array([int(np.argmin(lengths)), int(np.argmax(lengths))])
    together, found = model(task.samples.batch(pair))
    alone = [model(task.samples.batch(pair[[row]]))[1] for row in range(2)]
    # Losses of each text's own: those of a batch's tokens are means over all of them.
    for name in ("loss/kl", "loss/pkd", "loss/fitnet"):
        torch.testing.assert_close(found[name], alone[0][name] + alone[1][name], atol=1e-4, rtol=1e-4)
    assert torch.isfinite(together)


def test_a_rank_without_work_adds_nothing(recipe):
    task, model = _model(recipe)
    loss, metrics = model(task.samples.batch(np.zeros(0, dtype=np.int64)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(value) == 0 for value in metrics.values())


class _Even:
    """In place of a store: every class is as likely."""

    elsewhere, codec, codecs, changes, notes, moments = False, object(), (), False, (), ({},)

    def of(self, numbers, views, targets):
        return DenseLabels(torch.full((len(numbers), 2), 0.5).log())


@pytest.mark.parametrize("losses", [(), ({"type": "kl"}, {"type": "dkd"})])
def test_a_rank_without_work_adds_nothing_of_stored_labels(tmp_path, losses):
    recipe = _recipe(tmp_path, losses=losses)
    arm, source = plan_arms(recipe)[0], open_source(recipe.data)
    tokenizer = load_tokenizer(str(recipe.teacher.path))
    samples = classified_text_samples(recipe, source, tokenizer, 12, False)
    samples = ClassifiedTextSamples(source, tokenizer, 12, samples._samples, _Even())
    student = build_classified_text_student(recipe.student, tokenizer, 2)
    task = Task(samples, lambda: student, {})
    model = DistillModel(student, recipe.training, True, compose_task(recipe, arm, task, student, torch.device("cpu")))
    loss, metrics = model(samples.batch(np.zeros(0, dtype=np.int64)))
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(value) == 0 for value in metrics.values())
    assert float(model(samples.batch(np.arange(2)))[0].detach()) > 0


def test_another_tokenizer_cannot_share_tokens(tmp_path):
    other = make_tokenizer(tmp_path / "tokenizer", more=["word"])
    student = {**_recipe(tmp_path / "a").student.model_dump(), "tokenizer": str(other)}
    with pytest.raises(TokenizerMismatch, match=r"Set student\.tokenizer to the teacher's"):
        _model(_recipe(tmp_path / "b", student=student))


def test_a_live_teacher_cuts_texts_where_the_student_does(tmp_path):
    student = {**_recipe(tmp_path / "a").student.model_dump(), "max_length": 10}
    said = r"teacher\.max_length is 12, student\.max_length 10"
    with pytest.raises(ConfigError, match=said):
        estimate(_recipe(tmp_path / "c", student=student), live=True)
    with pytest.raises(ConfigError, match=said):
        _model(_recipe(tmp_path / "b", student=student))


def test_activations_can_be_computed_again(recipe):
    student = make_task(recipe, plan_arms(recipe)[0]).build()
    checkpoint_activations(student)
    assert student.model.is_gradient_checkpointing


def test_live_features_cannot_come_from_labels(tmp_path):
    training = {"steps": 2, "losses": LOSSES, "live_teacher": False}
    with pytest.raises(ConfigError, match=r"pkd needs features of bert\.encoder\.layer\.1"):
        _model(classified_recipe(tmp_path, training=training))


def test_an_export_is_the_network_alone(recipe, tmp_path):
    task, model = _model(recipe)
    folder = export_student(model.student, tmp_path / "student", **task.export)
    batch = task.samples.batch(np.arange(3))
    with torch.no_grad():
        ids, mask, _ = batch.tokens.unbind(1)
        found = load_student(folder)(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(found, model.student.eval()(batch.tokens))


def test_types_tell_the_texts_of_a_pair_apart(tmp_path):
    recipe = classified_recipe(tmp_path)
    folder = make_tokenizer(tmp_path / "typed", inputs=["input_ids", "token_type_ids", "attention_mask"])
    tokenizer = load_tokenizer(str(folder))
    samples = classified_text_samples(recipe, open_source(recipe.data), tokenizer, 12, False)
    student = build_classified_text_student(recipe.student, tokenizer, 2).eval()
    tokens = samples.batch(np.arange(2)).tokens
    assert not bool(tokens[:, 2].any())
    changed = tokens.clone()
    changed[:, 2] = 1
    assert not torch.equal(student(tokens), student(changed))


def test_a_teacher_is_trained_on_the_spot_and_taught_from(tmp_path):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    fit = {"steps": 2, "batch_size": 4, "seeds": [3]}
    teacher = {"type": "text_classifier", "architecture": ARCHITECTURE, "tokenizer": str(tokenizer), "max_length": 12}
    recipe = _recipe(tmp_path, teacher={**teacher, "fit": fit})
    with pytest.raises(TeacherError, match="must be trained before it teaches"):
        _model(recipe)
    arm = teacher_arm(recipe)
    assert arm.seed == 3
    assert run_arms(recipe, [arm])["teacher"]["steps"] == 2
    fitted = with_fitted_teacher(recipe)
    assert fitted.teacher.path == str(recipe.run_dir / "teacher")
    again = Recipe.model_validate_json(fitted.model_dump_json())  # as replicas get it
    inputs = TextClassifierTeacher(again.teacher, 2).encode([("good film", None)])
    assert inputs["input_ids"].tolist() == [[2, 8, 6, 3]]
    task, model = _model(recipe)
    assert float(model(task.samples.batch(np.arange(2)))[0].detach()) > 0
