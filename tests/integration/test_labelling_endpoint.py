"""A teacher behind HTTP labels in a job, and its labels are those of the same model at hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdcore.config.models import TeacherLMConfig
from kdcore.config.recipe import Recipe
from kdcore.errors import TeacherError, TeacherUnavailable
from kdcore.store import open_store, verify_store
from kdcore.teachers.causal_lm import CausalLMTeacher
from tests.support.endpoint_server import Server, serving
from tests.support.labelling_runs import label
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")

TOLERANCE = 4e-3  # of log-probabilities in float16: another order of sums, and the tail as one minus a sum


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("endpoint")
    write_documents(path / "docs", 12)
    write_teacher(path / "teacher")
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    config = TeacherLMConfig(path=str(folder / "teacher"), context=64, overlap=8)
    with serving(CausalLMTeacher(config, device="cpu")) as server:
        yield server


def endpoint(folder: Path, server: Server, **changes: Any) -> dict[str, Any]:
    return {
        "type": "endpoint", "url": f"http://127.0.0.1:{server.server_port}", "model": "tiny", "revision": "1",
        "tokenizer": str(folder / "teacher"), "top_logprobs": 6, "context": 24, "overlap": 8, "concurrency": 3,
        **changes,
    }  # fmt: skip


def compare(store_path: str, folder: Path, name: str) -> None:
    """With a store of the same teacher at hand, whose windows are the same."""
    assert verify_store(store_path).ok
    ours, theirs = open_store(store_path), open_store(label(folder, name))
    np.testing.assert_array_equal(ours.keys(), theirs.keys())
    assert max(len(ours.tokens(row)) for row in range(ours.num_rows)) > 3 * 24
    for row in range(ours.num_rows):
        np.testing.assert_array_equal(ours.tokens(row), theirs.tokens(row))
        found, wanted = ours.row_view(row).columns, theirs.row_view(row).columns
        # Not of the first label: the state of the begin token is zero, so that all tokens are equally probable.
        np.testing.assert_array_equal(found["ids"][4:], wanted["ids"][4:])
        for column in ("log_probs", "tail_log_prob"):
            np.testing.assert_allclose(found[column].astype(float), wanted[column].astype(float), atol=TOLERANCE)
        np.testing.assert_allclose(ours.token_log_probs(row), theirs.token_log_probs(row), atol=TOLERANCE)


def test_kd_precompute_labels_through_an_endpoint(folder: Path, server: Server, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from typer.testing import CliRunner

    from jobs.main import app

    file = tmp_path / "recipe.yaml"
    cluster = {"replicas": 1, "cpus_per_replica": 0.5}
    file.write_text(yaml.safe_dump(recipe(folder, "served", teacher=endpoint(folder, server), cluster=cluster)))
    server.statuses = [503, 429]  # asked again by the teacher itself
    done = CliRunner().invoke(app, ["precompute", str(file)])
    assert done.exit_code == 0, done.output
    store_path = str(folder / "runs" / "served" / "labels")
    compare(store_path, folder, "at-hand")
    store = open_store(store_path)
    assert store.identity["teacher"] == {"type": "endpoint", "protocol": "vllm", "model": "tiny", "revision": "1"}
    assert 0.2 < store.manifest.extra["fidelity"]["mass_kept"] <= 1
    asked = len(server.keys)
    assert CliRunner().invoke(app, ["precompute", str(file)]).exit_code == 0  # finished: nothing is asked again
    assert len(server.keys) == asked


def test_an_endpoint_that_is_away_costs_attempts(folder: Path, server: Server) -> None:
    teacher = endpoint(folder, server, attempts=1)
    labels = {**recipe(folder, "x")["labels"], "retry_seconds": 0.01}
    server.statuses = [503]  # for the replica's start
    compare(label(folder, "away", teacher=teacher, labels=labels), folder, "away-at-hand")
    assert server.most_at_once > 1
    asked = len(server.keys)  # half of them for the probe
    server.statuses = [200] * (asked * 3 // 4) + [503]
    compare(label(folder, "moment", teacher=teacher, labels=labels), folder, "away-at-hand")
    events = (folder / "runs" / "moment" / "labels-events.jsonl").read_text()
    assert events.count('"UnitError"') == events.count("did not answer in 1 attempts") / 2 == 1
    server.statuses = [503] * 1000
    with pytest.raises(TeacherUnavailable, match=r"did not answer in 1 attempts.*503"):
        label(folder, "gone", teacher=teacher, labels=labels)


def test_a_wrong_model_ends_the_job_at_once(folder: Path, server: Server) -> None:
    with pytest.raises(TeacherError, match=r"it answered 404.*teacher.model"):
        label(folder, "wrong", teacher=endpoint(folder, server, model="other"))
    # One window of each document under way: the first answer may come before the third asks.
    assert 1 <= len(server.keys) <= 3


def test_what_an_endpoint_cannot_give_is_refused(folder: Path, server: Server) -> None:
    for codec, said in (("dense", "'dense' needs: set it to topk"), ("topk, k: 7", "7 is more than 6")):
        labels = yaml.safe_load(f"{{codec: {{type: {codec}}}}}")
        with pytest.raises(ValueError, match=said):
            Recipe.model_validate(recipe(folder, "x", teacher=endpoint(folder, server), labels=labels))
    default = Recipe.model_validate(recipe(folder, "x", teacher=endpoint(folder, server), labels={}))
    assert default.codec.model_dump() == {"type": "topk", "k": 6, "bits": 16}
