"""Rows and teachers at the edge, through the labelling path, under the default codec."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.data.tokenizer import encode_document
from kdcore.errors import LabelError
from kdcore.identity import sample_key_text
from kdcore.labels.soft_labels import SparseLabels
from kdcore.store import LabelStore, open_store, verify_store
from tests.support.labelling_runs import label
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")

CONTEXT = 24
SENTENCE = "the cat sat on a mat and the dog ran to an old log while rain fell"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("edges")
    write_documents(path / "docs", 6)
    write_teacher(path / "teacher")
    return path


def labelled(folder: Path, name: str, codec: dict[str, Any] | None = None, **changes: Any) -> LabelStore:
    codec = {"type": "threshold", "draws": 12} if codec is None else codec
    path = label(folder, name, labels={"unit_bytes": 600, "codec": codec}, **changes)
    report = verify_store(path)
    assert report.ok, report.problems
    return open_store(path)


def weights_of(store: LabelStore, row: int) -> SparseLabels:
    labels = store.labels(row)
    assert isinstance(labels, SparseLabels)
    return labels


def sums(labels: SparseLabels) -> np.ndarray:
    """The weights of each label, summed."""
    return np.array([float(part.sum()) for part in np.split(labels.weights.numpy(), labels.offsets[1:-1].numpy())])


def teacher_with(folder: Path, copy: Path, change: Callable[[dict[str, torch.Tensor]], None], **config: Any) -> Path:
    """A copy of the teacher with other tensors, and other settings."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "teacher", copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, **config}))
    return copy


def teacher_at(folder: Path, path: Path) -> dict[str, Any]:
    return recipe(folder, "x")["teacher"] | {"path": str(path)}


def test_rows_that_are_the_same_empty_of_one_token_and_too_long(folder: Path, tmp_path: Path) -> None:
    texts = {"a": SENTENCE, "b": SENTENCE, "c": SENTENCE, "empty": "", "one": "t", "long": " ".join([SENTENCE] * 5)}
    (tmp_path / "docs").mkdir()
    for name, text in texts.items():
        (tmp_path / "docs" / f"{name}.txt").write_text(text)
    data = recipe(tmp_path, "x")["data"]
    store = labelled(folder, "rows", data=data)
    rows = {name: store.row_of(sample_key_text(text)) for name, text in texts.items() if text}
    assert store.num_rows == 3  # one label of what is the same, none of what is empty
    assert store.occurrences()[rows["a"]] == 3
    assert sample_key_text("") not in store
    assert "empty.txt" in str(store.manifest.extra["statistics"]["skipped"])
    assert len(store.tokens(rows["long"])) > 3 * CONTEXT
    for row in rows.values():
        labels = weights_of(store, row)
        assert labels.num_labels == len(store.tokens(row)) - 1 == len(store.token_log_probs(row))
        np.testing.assert_allclose(sums(labels), 1, rtol=1e-6)


def test_a_document_that_is_one_token_has_a_row_and_no_label(folder: Path, tmp_path: Path) -> None:
    """A tokenizer that adds neither begin nor end."""
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    file = tmp_path / "teacher" / "tokenizer_config.json"
    settings = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("bos_token", "eos_token")}
    file.write_text(json.dumps(settings))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.txt").write_text("t")
    (tmp_path / "docs" / "more.txt").write_text(SENTENCE)
    data = recipe(tmp_path, "x")["data"]
    store = labelled(folder, "one-token", data=data, teacher=teacher_at(folder, tmp_path / "teacher"))
    row = store.row_of(sample_key_text("t"))
    assert len(store.tokens(row)) == 1
    assert weights_of(store, row).num_labels == len(store.token_log_probs(row)) == 0
    assert all(len(values) == 0 for values in store.row_view(row).columns.values())
    with pytest.raises(LabelError, match="has none: every document has one token"):
        labelled(folder, "only-one", data={**data, "path": str(tmp_path / "docs/one.txt")},
                 teacher=teacher_at(folder, tmp_path / "teacher"))  # fmt: skip


@pytest.mark.parametrize("codec", ["threshold", "sampled"])
def test_more_draws_than_classes(folder: Path, codec: str) -> None:
    store = labelled(folder, f"draws-{codec}", {"type": codec, "draws": 4000})
    assert store.num_classes < 300
    labels = weights_of(store, store.row_of(sample_key_text((folder / "docs/doc002.txt").read_text())))
    counts = labels.weights * 4000
    assert (counts - counts.round()).abs().max() < 1e-3
    np.testing.assert_allclose(sums(labels), 1, rtol=1e-5)
    assert int(labels.offsets.diff().max()) <= store.num_classes


def test_a_k_above_the_vocabulary_keeps_all_classes(folder: Path) -> None:
    store = labelled(folder, "k", {"type": "topk", "k": 5000})
    assert store.identity["codec"]["k"] == store.num_classes
    labels = store.labels(1)
    assert labels.ids.sort(dim=1).values.equal(torch.arange(store.num_classes).expand(labels.num_labels, -1))
    assert (labels.tail_log_prob < -5).all()


def test_a_teacher_that_is_sure_has_one_class_a_label(folder: Path, tmp_path: Path) -> None:
    text = "the cat sat on a mat"

    def sure(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = head_that_knows(folder / "teacher", text)

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.txt").write_text(text)
    teacher = teacher_at(folder, teacher_with(folder, tmp_path / "t", sure))
    store = labelled(folder, "sure", data=recipe(tmp_path, "x")["data"], teacher=teacher)
    # The state of the begin token is zero, as its embedding is: of the first label, the teacher knows nothing.
    first, others = store.labels(0, 0, 1), store.labels(0, 1)
    assert isinstance(first, SparseLabels)
    assert isinstance(others, SparseLabels)
    assert len(first.ids) == 12
    assert others.ids.tolist() == store.tokens(0)[2:].tolist()
    assert (others.weights == 1).all()
    np.testing.assert_allclose(store.token_log_probs(0, 1), 0, atol=1e-6)


def head_that_knows(path: Path, text: str) -> torch.Tensor:
    """A head [V, width] that gives every next token of a text a logit of 100, and all others none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path)
    ids = torch.tensor(encode_document(AutoTokenizer.from_pretrained(path), text))
    with torch.no_grad():
        hidden = model.model(input_ids=ids[None, :-1]).last_hidden_state[0]
    assert len(hidden) < hidden.shape[1]  # so that there is such a head
    assert hidden[0].abs().max() == 0  # the begin token is the padding token, whose embedding is zero
    wanted = torch.nn.functional.one_hot(ids[1:], len(model.lm_head.weight)) * 100.0
    return (torch.linalg.pinv(hidden.double()) @ wanted.double()).T.float().contiguous()


def test_equal_logits_are_as_many_classes_as_draws(folder: Path, tmp_path: Path) -> None:
    def equal(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"].zero_()

    store = labelled(folder, "equal", teacher=teacher_at(folder, teacher_with(folder, tmp_path / "t", equal)))
    found = torch.zeros(store.num_classes)
    for row in range(store.num_rows):
        labels = weights_of(store, row)
        assert (labels.offsets.diff() == 12).all()
        np.testing.assert_allclose(labels.weights, 1 / 12, rtol=1e-6)
        np.testing.assert_allclose(store.token_log_probs(row), -math.log(store.num_classes), rtol=1e-3)
        found.index_add_(0, labels.ids, labels.weights)
    # Every class has its turn: 241 labels give each about 51 draws of 12 in 57.
    assert found.min() > 0
    assert found.max() < 3 * found.mean()


def test_padding_rows_of_the_model_get_no_label(folder: Path, tmp_path: Path) -> None:
    plain = labelled(folder, "plain")
    classes = plain.num_classes

    def pad(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("lm_head.weight", "model.embed_tokens.weight"):
            if name in tensors:
                # Rows that would be the likeliest of all.
                rows = 9 * tensors[name].abs().amax(0, keepdim=True).expand(11, -1)
                tensors[name] = torch.cat([tensors[name], rows]).contiguous()

    teacher = teacher_with(folder, tmp_path / "t", pad, vocab_size=classes + 11)
    store = labelled(folder, "padded", teacher=teacher_at(folder, teacher))
    assert (store.num_classes, store.num_rows) == (classes, plain.num_rows)
    for row in range(store.num_rows):
        ours, wanted = weights_of(store, row), weights_of(plain, row)
        assert ours.ids.equal(wanted.ids)
        assert ours.weights.equal(wanted.weights)
        np.testing.assert_array_equal(store.token_log_probs(row), plain.token_log_probs(row))
