"""Training on some tokens only: every label where it belongs, and the gradient of a loss that weighs others zero."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config import Recipe, TrainingConfig
from kdcore.data.chunks import Masked, make_chunks
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import DataError
from kdcore.labels.soft_labels import DenseLabels
from kdcore.store import open_store
from kdcore.training.model import DistillModel
from kdcore.training.text_samples import text_samples
from tests.support.chat_runs import data, write_chat_teacher, write_rows
from tests.support.labelling_runs import label
from tests.support.training import text_recipe

ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.sets(st.integers(0, 39))), max_size=12)


@settings(deadline=None)
@given(rows=ROWS, length=st.integers(1, 16))
def test_chunks_have_every_label_of_every_occurrence_and_none_is_without(rows, length):
    tokens, times = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], int)
    places = [np.array(sorted(place for place in row[2] if place < row[0] - 1), int) for row in rows]
    asked: list[int] = []

    def positions(row: int) -> np.ndarray:
        asked.append(row)
        return places[row]

    chunks = make_chunks(tokens, times, length, Masked(np.array(list(map(len, places)), int), positions))
    counts = [np.zeros(len(place), int) for place in places]
    for row, start, stop, first, last in (chunks[number] for number in range(len(chunks))):
        assert first < last
        assert start % length == 0
        assert stop - start <= length
        inside = places[row][first:last]
        assert start <= inside[0] <= inside[-1] < stop <= tokens[row] - 1
        counts[row][first:last] += 1
    assert all((count == occurrence).all() for count, occurrence in zip(counts, times, strict=True))
    assert sorted(set(asked)) == sorted(asked)
    assert all(tokens[row] - 1 > length and 0 <= len(places[row]) < tokens[row] - 1 for row in asked)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("masks")
    write_rows(root)
    write_chat_teacher(root / "teacher")
    for mask in ("assistant", "all"):
        label(root, mask, data=data(root, "chat", mask=mask), labels={"codec": {"type": "dense"}})
    return root


def recipe_of(root: Path, mask: str, teacher: bool = True, **changes) -> Recipe:
    base = text_recipe(root, f"train-{mask}-{teacher}", teacher).model_dump()
    base["data"] = data(root, "chat", mask=mask, **changes)
    base["labels"] = {"path": str(root / "runs" / mask / "labels"), "codec": {"type": "dense"}}
    base["student"]["tokenizer"] = str(root / "teacher")
    base["teacher"] = {"type": "causal_lm", "path": str(root / "teacher"), "context": 200} if teacher else None
    return Recipe.model_validate(base)


def samples_of(root: Path, mask: str, teacher: bool = True, length: int = 48):
    tokenizer = load_tokenizer(str(root / "teacher"))
    return text_samples(recipe_of(root, mask, teacher), tokenizer, teacher, length, long_documents="cut")


def test_an_epoch_has_each_label_at_its_token(root):
    samples, store = samples_of(root, "assistant"), open_store(root / "runs" / "assistant" / "labels")
    wanted = []
    for row, times in enumerate(store.occurrences()):
        labels, tokens, positions = store.labels(row), store.tokens(row), store.label_positions(row)
        assert isinstance(labels, DenseLabels)
        pairs = zip(tokens[positions], tokens[positions + 1], labels.log_probs[:, :9].tolist(), strict=True)
        wanted += int(times) * [(int(last), int(after), rest) for last, after, rest in pairs]
    seen = []
    for start in range(0, len(samples), 3):
        indices = np.arange(start, min(start + 3, len(samples)))
        batch = samples.batch(indices)
        assert isinstance(batch.labels, DenseLabels)
        inputs = batch.input_ids.flatten()[batch.positions].tolist()
        assert len(inputs) == samples.tokens(indices) == batch.labels.num_labels
        seen += list(zip(inputs, batch.targets.tolist(), batch.labels.log_probs[:, :9].tolist(), strict=True))
    assert sorted(seen, key=str) == sorted(wanted, key=str)


def test_the_baseline_learns_the_same_tokens(root):
    with_labels, alone = samples_of(root, "assistant"), samples_of(root, "assistant", teacher=False)
    assert len(with_labels) == len(alone)
    ours, theirs = (
        sorted((b.input_ids.flatten()[b.positions].tolist(), b.targets.tolist()) for b in map(one.batch, _each(one)))
        for one in (with_labels, alone)
    )
    assert ours == theirs


def _each(samples):
    return [np.array([index]) for index in range(len(samples))]


@pytest.mark.parametrize("hard_weight", [0.0, 0.3])
def test_the_gradient_is_that_of_all_tokens_with_zero_weights_elsewhere(root, hard_weight):
    from kdcore.students.build import build_text_student

    recipe = recipe_of(root, "assistant")
    torch.manual_seed(0)
    student = build_text_student(recipe.student, load_tokenizer(str(root / "teacher")))  # pyright: ignore
    config = TrainingConfig(steps=1, loss={"hard_weight": hard_weight})  # pyright: ignore[reportArgumentType]
    model = DistillModel(student, config, uses_labels=True)
    some, every = samples_of(root, "assistant", length=200), samples_of(root, "all", length=200)
    store = open_store(root / "runs" / "assistant" / "labels")
    loss, metrics = model(some.batch(np.arange(len(some))))
    loss.backward()
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    model.zero_grad()
    total, weights = torch.zeros(()), 0
    positions = {tuple(store.tokens(row).tolist()): store.label_positions(row) for row in range(store.num_rows)}
    for number in range(len(every)):
        batch = every.batch(np.array([number]))
        assert isinstance(batch.labels, DenseLabels)
        weight = torch.zeros(len(batch.targets))
        weight[positions[(*batch.input_ids[0].tolist(), int(batch.targets[-1]))]] = 1
        logits = student(input_ids=batch.input_ids).logits[0].log_softmax(-1)
        truth = batch.labels.log_probs.exp()
        kl = (truth * (batch.labels.log_probs.clamp(min=-50) - logits)).sum(1)
        hard = -logits.gather(1, batch.targets[:, None])[:, 0]
        total = total + (weight * ((1 - hard_weight) * kl + hard_weight * hard)).sum()
        weights += int(weight.sum())
    total.backward()
    wanted = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert float(metrics["tokens"]) == weights > 0
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-4)
    for left, right in zip(found, wanted, strict=True):
        assert torch.allclose(left, right, atol=1e-4 * float(right.abs().max()))


def test_a_corpus_without_a_token_to_learn_is_refused(root, tmp_path):
    path = tmp_path / "silent.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hello"}]}))
    recipe = recipe_of(root, "assistant", teacher=False, path=str(path))
    with pytest.raises(DataError, match=r"data\.mask"):
        text_samples(recipe, load_tokenizer(str(root / "teacher")), False, 16, "cut")


def test_the_exported_tokenizer_has_the_template_of_the_recipe(root, tmp_path):
    from kdcore.training.arms import plan_arms
    from kdcore.training.task import make_task

    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (tmp_path / "t.jinja").write_text(template)
    recipe = recipe_of(root, "all", teacher=False, chat_template=str(tmp_path / "t.jinja"))
    task = make_task(recipe, plan_arms(recipe)[0])
    task.export["tokenizer"].save_pretrained(tmp_path / "out")
    assert load_tokenizer(str(tmp_path / "out")).chat_template == template
