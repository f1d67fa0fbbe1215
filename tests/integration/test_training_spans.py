"""A student of another tokenizer learns from a store of codec `span`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.labelling.against_teacher import verify_against_teacher
from kdcore.config import Recipe
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import IdentityMismatch, LabelError, StoreError
from kdcore.labels import ChunkLabels, SpanLabels
from kdcore.store import open_store, verify_store
from kdcore.training.arms import plan_arms
from kdcore.training.run import run_arms
from kdcore.training.text_samples import text_samples
from tests.support.labelling_runs import label
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

BYTES = str(Path(__file__).parents[2] / "models" / "bytes")
STUDENT: dict[str, Any] = {
    "type": "causal_lm",
    "tokenizer": BYTES,
    "architecture": {
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
    },
}
TRAINING: dict[str, Any] = {
    "steps": 12,
    "batch_size": 4,
    "sequence_length": 100,
    "long_documents": "cut",
    "optimizer": {"learning_rate": 1e-2},
    "log_every_steps": 4,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spans")
    write_documents(folder / "docs", 12)
    write_teacher(folder / "teacher")
    label(folder, "spans", labels={"codec": {"type": "span"}, "unit_bytes": 1500})
    return folder


def trained(root: Path, **changes: Any) -> Recipe:
    tree = recipe(root, "spans", labels={"codec": {"type": "span"}, "unit_bytes": 1500})
    return Recipe.model_validate({**tree, "student": STUDENT, "training": {**TRAINING, **changes}})


def test_the_store_is_right(root: Path) -> None:
    asked = trained(root)
    store = open_store(asked.store_path)
    assert verify_store(asked.store_path).problems == []
    report = verify_against_teacher(asked.store_path, asked)
    assert not report.problems
    texts = {name.name: name.read_text() for name in (root / "docs").iterdir()}
    tokenizer = load_tokenizer(str(root / "teacher"))
    for row in range(store.num_rows):
        labels = store.labels(row)
        assert isinstance(labels, SpanLabels)
        content = texts[store.name(row)].encode()
        words = [content[begin:end] for begin, end in zip(labels.begins, labels.ends, strict=True)]
        assert b"".join(words) == content
        assert [word.decode() for word in words[:-1]] == [
            tokenizer.decode([token]) for token in store.tokens(row)[1:-1].tolist()
        ]
        assert np.allclose(labels.log_probs.numpy(), store.token_log_probs(row))
    assert store.manifest.extra["fidelity"]["log_prob_error"] < 1e-2


def test_they_are_exported_as_plain_columns(root: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from kdcore.store import ExportSettings, export_store

    store = open_store(trained(root).store_path)
    report = export_store(store, str(tmp_path / "all.parquet"), ExportSettings(4))
    assert report.labels == store.num_labels
    table = pq.read_table(tmp_path / "all.parquet").to_pylist()
    for row, written in enumerate(table):
        labels = store.labels(row)
        assert isinstance(labels, SpanLabels)
        assert written["input_ids"] == store.tokens(row).tolist()
        assert written["byte_ends"] == labels.ends.tolist()
        assert written["token_log_probs"] == labels.log_probs.tolist()
    with pytest.raises(StoreError, match="no most probable classes"):
        export_store(store, str(tmp_path / "kit"), ExportSettings(4, "distillkit"))


def test_another_tokenizer_finds_its_chunks(root: Path) -> None:
    asked, tokenizer = trained(root), load_tokenizer(BYTES)
    samples = text_samples(asked, tokenizer, True, 100, "cut")
    batch = samples.batch(np.arange(5))
    labels = batch.labels
    assert isinstance(labels, ChunkLabels)
    assert labels.num_labels == len(batch.targets)
    # All bytes are in chunks but those at the ends of pieces.
    assert float((labels.chunk >= 0).float().mean()) > 0.9
    assert set(tokenizer.convert_ids_to_tokens(labels.boundary_ids.tolist())) >= {"Ġ", "Ċ", "<|end|>"}
    follows = batch.targets[labels.after[labels.after >= 0]]
    assert len(follows)
    empty = samples.batch(np.zeros(0, dtype=np.int64))
    assert empty.labels is not None
    assert empty.labels.num_labels == 0


@pytest.mark.parametrize("layout", ["padded", "rows", "flat"])
def test_the_layout_of_a_batch_does_not_matter(root: Path, layout: Any) -> None:
    samples = text_samples(trained(root), load_tokenizer(BYTES), True, 100, "cut")
    whole = samples.batch(np.arange(6), layout)
    labels = whole.labels
    assert isinstance(labels, ChunkLabels)
    parts = [samples.batch(np.array([index]), "padded") for index in range(6)]
    assert sum(part.labels.num_chunks for part in parts if isinstance(part.labels, ChunkLabels)) == labels.num_chunks
    found = {
        (round(float(a), 4), int(whole.targets[labels.chunk == place].sum()))
        for place, a in enumerate(labels.log_probs)
    }
    for part in parts:
        assert isinstance(part.labels, ChunkLabels)
        for place, value in enumerate(part.labels.log_probs):
            assert (round(float(value), 4), int(part.targets[part.labels.chunk == place].sum())) in found


def test_a_student_and_its_baseline_are_trained(root: Path) -> None:
    asked = trained(root)
    run_arms(asked, plan_arms(asked))
    lines = [(asked.run_dir / "arms" / arm.name / "metrics.jsonl").read_text().splitlines() for arm in plan_arms(asked)]
    assert all(len(each) == 3 for each in lines)


def test_other_uses_of_such_a_store_are_refused(root: Path, tmp_path: Path) -> None:
    from kdcore.training.labelled_text import LabelledText

    asked = trained(root)
    with pytest.raises(IdentityMismatch, match="type: span"):
        LabelledText(asked.store_path, load_tokenizer(BYTES))
    with pytest.raises(ValueError, match="chunk_temperature"):
        trained(root, loss={"type": "jsd"})
    data = LabelledText(asked.store_path, None, 128, "cut")
    from kdcore.losses.sparse.loss import distillation_loss_from_hidden

    batch = data.collate([data[0]])
    with pytest.raises(LabelError, match="cross_tokenizer"):
        distillation_loss_from_hidden(
            torch.zeros(len(batch.targets), 4), torch.zeros(300, 4), batch.labels, batch.targets
        )
