"""Labelling end to end: in process, and one run on Ray actors."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.labelling.replica.answers import token_bounded_batches
from cluster.labelling.replica.loading import load_answers
from cluster.labelling.replica.replica import Replica, probe_batches
from cluster.labelling.run import label_store
from cluster.labelling.twin import InProcessPool
from kdcore.config.recipe import Recipe
from kdcore.data.document import SampleRef
from kdcore.data.sources import open_source
from kdcore.data.splits import probe_order
from kdcore.errors import (
    IdentityMismatch,
    KDError,
    LabelError,
    OutOfSpace,
    ResourceError,
    UnitFailed,
    UnreadableDocument,
)
from kdcore.evaluation.fidelity import dense_weights
from kdcore.store import open_store, verify_store
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelling")
    write_documents(path / "docs", 12)
    write_teacher(path / "teacher")
    return path


@contextmanager
def in_process(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
    yield InProcessPool(lambda: Replica(recipe.model_dump_json(), str(recipe.store_path)))


def label(folder: Path, name: str, pool: Any = in_process, **changes: Any) -> Path:
    return Path(label_store(Recipe.model_validate(recipe(folder, name, **changes)), lambda note: None, pool))


def content(path: Path) -> dict[bytes, tuple[Any, ...]]:
    """Everything a store says of a sample, by key."""
    store = open_store(path)
    keys = store.keys()
    rows = {}
    for row in range(store.num_rows):
        columns = store.row_view(row).columns
        arrays = (store.tokens(row), store.token_log_probs(row), *(columns[name] for name in sorted(columns)))
        rows[np.asarray(keys[row]).tobytes()] = tuple(array.tobytes() for array in arrays)
    return rows


def test_labels_are_the_teachers_own(folder: Path) -> None:
    """Against one forward pass over the whole document, where a window holds all of it."""
    import torch
    from transformers import AutoModelForCausalLM

    teacher = recipe(folder, "whole")["teacher"] | {"context": 128}
    path = label(folder, "whole", teacher=teacher)
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher").eval()
    store = open_store(path)
    for row in range(3):
        tokens = torch.tensor(np.array(store.tokens(row)))
        with torch.no_grad():
            wanted = model(input_ids=tokens[None]).logits[0, :-1].log_softmax(-1)
        labels = store.labels(row, 0, len(tokens) - 1)
        found = wanted.gather(1, labels.ids)
        torch.testing.assert_close(labels.log_probs, found, atol=5e-3, rtol=5e-3)
        torch.testing.assert_close(labels.log_probs[:, 0], wanted.amax(-1), atol=5e-3, rtol=5e-3)
    assert verify_store(path).problems in ([], ())
    assert store.manifest.extra["statistics"]["samples"] == 12
    assert store.num_rows == 11  # two documents are the same


CODECS = {
    "topk": {"type": "topk", "k": 4},
    "dense": {"type": "dense", "bits": 8},
    "threshold": {"type": "threshold", "budget_bytes": 6},
    "sampled": {"type": "sampled", "draws": 20},
    "feature": {"type": "feature", "layers": ["model.layers.0", "model.norm"], "dtype": "int8"},
}


@pytest.mark.parametrize("codec", CODECS)
def test_the_number_of_replicas_changes_nothing(folder: Path, codec: str) -> None:
    labels = {"unit_bytes": 600, "codec": CODECS[codec]}
    one = label(folder, f"one-{codec}", cluster={"replicas": 1}, labels=labels)
    assert content(one) == content(label(folder, f"two-{codec}", labels=labels))
    assert verify_store(one).ok
    fidelity = open_store(one).manifest.extra["fidelity"]
    assert fidelity["labels"] > 100
    assert fidelity["bytes_per_label"]["total"] > 0


def test_unbiased_labels_are_the_teacher_in_the_mean(folder: Path) -> None:
    """Over the labels of a store, the mean weight of a class is its mean probability within six standard errors."""
    import torch
    from transformers import AutoModelForCausalLM

    labels = {"unit_bytes": 600, "codec": {"type": "threshold", "draws": 8}}
    teacher = recipe(folder, "mean")["teacher"] | {"context": 128}
    store = open_store(label(folder, "mean", labels=labels, teacher=teacher))
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher").eval()
    wanted, found = [], []
    for row in range(store.num_rows):
        tokens = torch.tensor(np.array(store.tokens(row)))
        with torch.no_grad():
            wanted.append(model(input_ids=tokens[None]).logits[0, :-1].softmax(-1)[:, : store.num_classes])
        found.append(dense_weights(store.labels(row)))
    probabilities, weights = torch.cat(wanted), torch.cat(found)
    part = (probabilities * 8) % 1
    error = (part * (1 - part) / 64).sum(0).sqrt() / len(probabilities)
    assert ((weights.mean(0) - probabilities.mean(0)).abs() <= 6 * error + 1e-4).all()


def test_features_are_the_teachers_own(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    labels = {"unit_bytes": 600, "codec": {**CODECS["feature"], "dtype": "float16"}}
    teacher = recipe(folder, "hidden")["teacher"] | {"context": 128}
    store = open_store(label(folder, "hidden", labels=labels, teacher=teacher))
    model = AutoModelForCausalLM.from_pretrained(folder / "teacher").eval()
    tokens = torch.tensor(np.array(store.tokens(0)))
    with torch.no_grad():
        wanted = model(input_ids=tokens[None], output_hidden_states=True).hidden_states[-1][0, :-1]
    torch.testing.assert_close(store.labels(0).layer("model.norm"), wanted, atol=2e-3, rtol=2e-3)


def test_another_budget_than_the_store_was_begun_with_is_refused(folder: Path) -> None:
    label(folder, "budget", labels={"codec": {"type": "threshold", "budget_bytes": 6}})
    with pytest.raises(IdentityMismatch, match="budget_bytes"):
        label(folder, "budget", labels={"codec": {"type": "threshold", "budget_bytes": 7}})


def _probe(recipe: Recipe) -> list[SampleRef]:
    return probe_order(open_source(recipe.data).list("train"))


def test_the_probe_of_another_teacher_is_refused(folder: Path, tmp_path: Path) -> None:
    """A job that dies after its probe leaves no identity yet: the probe says for whom it was made."""
    import shutil

    from safetensors.torch import load_file, save_file

    first = Recipe.model_validate(recipe(folder, "probed", labels={"codec": {"type": "threshold", "draws": 6}}))
    Replica(first.model_dump_json(), first.store_path, _probe(first)).identity()
    assert not (folder / "runs/probed/labels/identity.json").exists()
    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, tmp_path / "teacher/model.safetensors", metadata={"format": "pt"})
    teacher = recipe(folder, "x")["teacher"] | {"path": str(tmp_path / "teacher")}
    with pytest.raises(IdentityMismatch, match=r"teacher\.weights"):
        label(folder, "probed", labels={"codec": {"type": "threshold", "draws": 6}}, teacher=teacher)
    label(folder, "probed", labels={"codec": {"type": "threshold", "draws": 6}})


def test_a_long_document_does_not_fill_the_probe(folder: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", 8)
    long = " ".join((tmp_path / "docs/doc003.txt").read_text() for _ in range(200))
    (tmp_path / "docs/long.txt").write_text(long)
    small = Recipe.model_validate(recipe(folder, "long", data=recipe(tmp_path, "x")["data"]))
    source = open_source(small.data)
    sizes = [len(batch.seeds) for batch in probe_batches(_probe(small), source, load_answers(small, source), small)]
    assert 512 <= sum(sizes) < 16_384
    assert len(sizes) > 8


def test_a_finished_store_is_returned_and_another_identity_refused(folder: Path) -> None:
    path = label(folder, "finished")
    before = sorted((path / "data").iterdir())
    assert label(folder, "finished") == path
    assert sorted((path / "data").iterdir()) == before
    with pytest.raises(IdentityMismatch, match="context"):
        label(folder, "finished", teacher=recipe(folder, "x")["teacher"] | {"context": 32})


def test_receipts_are_kept_when_a_job_stops(folder: Path) -> None:
    @contextmanager
    def dies(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
        deaths = {("unit-000001", attempt) for attempt in range(3)}
        yield InProcessPool(lambda: Replica(recipe.model_dump_json(), str(recipe.store_path)), deaths)

    with pytest.raises(KDError, match="unit-000001"):
        label(folder, "resumed", dies)
    first = {path.name for path in (folder / "runs/resumed/labels/data").iterdir()}
    assert first
    path = label(folder, "resumed")
    assert first <= {shard.name for shard in (path / "data").iterdir()}
    assert content(path) == content(label(folder, "undisturbed"))


def test_a_teacher_of_nan_is_named_with_unit_and_document(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, tmp_path / "teacher/model.safetensors", metadata={"format": "pt"})
    teacher = recipe(folder, "x")["teacher"] | {"path": str(tmp_path / "teacher")}
    with pytest.raises(LabelError, match=r"the probe, document 'doc.*txt'"):
        label(folder, "nan", teacher=teacher)


def test_a_document_that_makes_the_teacher_nan_is_named_with_its_unit(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    shutil.copytree(folder / "teacher", tmp_path / "teacher")
    write_documents(tmp_path / "docs", 6)
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    usual = {token for file in (tmp_path / "docs").iterdir() for token in tokenizer.encode(file.read_text())}
    (tmp_path / "docs/strange.txt").write_text("tac gdo nalr")
    strange = next(token for token in tokenizer.encode("tac gdo nalr") if token not in usual)
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights["model.embed_tokens.weight"][strange] = float("nan")
    save_file(weights, tmp_path / "teacher/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnitFailed, match=r"unit-00000\d, document 'strange.txt'"):
        label(tmp_path, "one-nan")


def test_an_unreadable_document_stops_or_is_counted(folder: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", 4)
    (tmp_path / "docs/broken.txt").write_bytes(b"\xff\xfe\x00")
    data = recipe(tmp_path, "x")["data"]
    with pytest.raises(UnreadableDocument, match="broken"):
        label(folder, "unreadable", data=data)
    path = label(folder, "skipping", data=data | {"on_unreadable": "skip"})
    statistics = open_store(path).manifest.extra["statistics"]
    assert statistics["num_skipped"] == 1
    assert statistics["skipped"][0][0].endswith("broken.txt")


def test_a_full_disk_says_so_and_the_job_goes_on_later(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcore.store.storage import local as place_local

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(place_local.os, "rename", full)
        with pytest.raises(OutOfSpace):
            label(folder, "full")
    assert content(label(folder, "full")) == content(label(folder, "not-full"))


def test_batches_are_bounded_and_cover_everything_once() -> None:
    lengths = [5, 1, 9, 9, 3, 20, 2]
    batches = list(token_bounded_batches(lengths, 18))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 18


def test_on_ray_actors_with_an_answer_on_missing_resources(folder: Path) -> None:
    """One cluster for both: the shortage is told within its deadline, then two actors label as one process does."""
    pytest.importorskip("ray")
    from cluster.connect import cluster_session
    from cluster.labelling.pool import ray_pool

    small = Recipe.model_validate(recipe(folder, "on-ray"))
    with cluster_session(small.cluster):
        began = time.monotonic()
        with pytest.raises(ResourceError, match=r"GPU: wanted 2000, available 0"):
            label(folder, "too-much", ray_pool, cluster={"replicas": 2, "gpus_per_replica": 1_000})
        assert time.monotonic() - began < 10
        on_ray = label(folder, "on-ray", ray_pool)
        teacher = recipe(folder, "x")["teacher"] | {"path": str(folder / "nothing-here")}
        with pytest.raises(KDError, match="nothing-here"):
            label(folder, "no-teacher", ray_pool, teacher=teacher)
    assert content(on_ray) == content(label(folder, "not-on-ray"))
