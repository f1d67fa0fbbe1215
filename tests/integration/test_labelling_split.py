"""Replicas of two actors each, a split teacher in them: the labels of a whole one, whatever becomes of an actor."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.connect import cluster_session
from cluster.labelling.pool import ray_pool
from cluster.labelling.run import check_store, label_store
from kdcore.config.recipe import Recipe
from kdcore.errors import ResourceError, UnitFailed
from kdcore.store import open_store, verify_store
from tests.support.labelling_runs import label
from tests.support.processes import actors_of
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")
pytest.importorskip("ray")

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]  # several groups of processes that import torch

TOLERANCE = 2e-3  # of log-probabilities kept in float16, about 1 to 8 in size
CLUSTER = {"replicas": 1, "cpus_per_replica": 0.25, "rank_timeout_seconds": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("split")
    write_documents(path / "docs", 24)
    write_teacher(path / "teacher")
    with cluster_session(Recipe.model_validate(recipe(path, "session")).cluster):
        yield path


def split(folder: Path, **changes: Any) -> dict[str, Any]:
    return recipe(folder, "x")["teacher"] | {"tensor_parallel": 2} | changes


def rows(store_path: str) -> dict[bytes, tuple[np.ndarray, ...]]:
    store = open_store(store_path)
    assert verify_store(store_path).ok
    return {
        np.asarray(store.keys()[row]).tobytes(): (
            store.tokens(row), store.token_log_probs(row), store.row_view(row).columns["log_probs"],
        )
        for row in range(store.num_rows)
    }  # fmt: skip


def test_two_ranks_label_like_one(folder: Path) -> None:
    dense = {"unit_bytes": 600, "codec": {"type": "dense"}}
    ours = label(folder, "two", ray_pool, teacher=split(folder), cluster=CLUSTER, labels=dense)
    whole = label(folder, "one", labels=dense)
    assert open_store(ours).identity == open_store(whole).identity
    found, wanted = rows(ours), rows(whole)
    assert found.keys() == wanted.keys()
    for key, parts in found.items():
        np.testing.assert_array_equal(parts[0], wanted[key][0])
        for mine, theirs in zip(parts[1:], wanted[key][1:], strict=True):
            # Stored in float16, of which two sums that differ in their last bit may be neighbours.
            np.testing.assert_allclose(mine.astype(float), theirs.astype(float), rtol=2**-10, atol=TOLERANCE)
    # A finished store is left as it is, after another group has said whose labels it wants.
    finished = Recipe.model_validate(recipe(folder, "two", teacher=split(folder), cluster=CLUSTER, labels=dense))
    check_store(finished)
    # So it is without its plan, which the group reads its probe from.
    shutil.rmtree(Path(ours) / "plan")
    notes: list[str] = []
    assert label_store(finished, notes.append) == ours
    assert "nothing to do" in notes[-1]


def strike(journal: Path, others: set[int], hit: list[int]) -> None:
    """Kill rank 1 of the first group, in mid-run, and stop rank 1 of the second."""
    for stop, receipts in ((signal.SIGKILL, 1), (signal.SIGSTOP, 8)):
        while not (found := set(actors_of(os.getpid(), "FollowerActor")) - others - set(hit)):
            time.sleep(0.1)
        while len(list(journal.glob("*.json"))) < receipts:
            time.sleep(0.005)
        hit.append(found.pop())
        os.kill(hit[-1], stop)


def test_a_rank_that_is_gone_is_replaced_with_its_group(folder: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", 100)
    changes = {"labels": {"unit_bytes": 200, "codec": {"type": "topk", "k": 4}}, "data": recipe(tmp_path, "x")["data"]}
    settings = Recipe.model_validate(recipe(folder, "gone", teacher=split(folder), cluster=CLUSTER, **changes))
    hit: list[int] = []
    leftovers = set(actors_of(os.getpid(), "FollowerActor"))  # of the last test, about to end
    arguments = (Path(settings.store_path) / "journal", leftovers, hit)
    threading.Thread(target=strike, args=arguments, daemon=True).start()
    path = label_store(settings, lambda note: None)
    events = [json.loads(line) for line in (settings.run_dir / "labels-events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("ReplicaDied") == len(hit) == 2
    assert rows(path).keys() == rows(label(folder, "not-gone", **changes)).keys()
    assert not any(Path(f"/proc/{process}").exists() for process in hit)


def test_a_poison_document_is_quarantined_and_the_group_goes_on(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    write_documents(tmp_path / "docs", 8)
    write_teacher(tmp_path / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    usual = {token for file in (tmp_path / "docs").iterdir() for token in tokenizer.encode(file.read_text())}
    (tmp_path / "docs" / "strange.txt").write_text("tac gdo nalr")
    strange = next(token for token in tokenizer.encode("tac gdo nalr") if token not in usual)
    weights = load_file(tmp_path / "teacher/model.safetensors")
    weights["model.embed_tokens.weight"][strange] = float("nan")
    save_file(weights, tmp_path / "teacher/model.safetensors", metadata={"format": "pt"})
    labels = {"unit_bytes": 200, "codec": {"type": "topk", "k": 4}}
    with pytest.raises(UnitFailed, match=r"1 of \d+ units failed: .*document 'strange.txt'"):
        label(tmp_path, "nan", ray_pool, teacher=split(tmp_path), cluster=CLUSTER, labels=labels)
    events = [json.loads(line) for line in (tmp_path / "runs/nan/labels-events.jsonl").read_text().splitlines()]
    assert {"Quarantine", "Fail"} < {event["event"] for event in events}
    assert not any(event["event"] == "ReplicaDied" for event in events)


def test_what_a_group_cannot_have_is_named(folder: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"tensor_parallel\) asks for \(2 x \{CPU 0.25, GPU 1\}"):
        label(folder, "short", ray_pool, teacher=split(folder), cluster={**CLUSTER, "gpus_per_replica": 1})
    assert time.monotonic() - began < 10
