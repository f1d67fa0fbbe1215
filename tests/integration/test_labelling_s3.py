"""Labelling end to end into a bucket, against a real S3 API server on loopback; credentials end up nowhere."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.labelling.replica.replica import Replica
from cluster.labelling.twin import InProcessPool
from kdcore.config.recipe import Recipe
from kdcore.errors import IdentityMismatch, KDError
from kdcore.labels.soft_labels import SparseLabels
from kdcore.runs import begin_run
from kdcore.store import collect_garbage, is_finished, open_place, open_store, read_receipts, verify_store
from tests.support.labelling_runs import content, label
from tests.support.s3_server import KEY, SECRET, TOKEN, environment, s3_server
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("transformers")

CODEC = {"type": "threshold", "budget_bytes": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labelling")
    write_documents(path / "docs", 12)
    write_teacher(path / "teacher")
    return path


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def client(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The bucket's own client, for looking behind the store."""
    for name, value in environment(port, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = s3fs.S3FileSystem()
    if not client.exists("bucket"):
        client.mkdir("bucket")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()


def labels(name: str) -> dict[str, Any]:
    return {"path": f"s3://bucket/{name}/labels", "unit_bytes": 600, "codec": CODEC}


def where_secrets_are(files: dict[str, bytes]) -> list[str]:
    assert files
    secrets = [word.encode() for word in (KEY, SECRET, TOKEN)]
    return [name for name, text in files.items() if any(secret in text for secret in secrets)]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def objects(client: Any, prefix: str) -> dict[str, bytes]:
    client.invalidate_cache()
    return {name: client.cat_file(name) for name in client.find(prefix)}


def test_a_store_in_a_bucket_is_that_of_a_directory(folder: Path, client: Any) -> None:
    from kdcore.data.tokenizer import load_tokenizer
    from kdcore.training.text_samples import text_samples

    url = label(folder, "whole", labels=labels("whole"))
    assert url == "s3://bucket/whole/labels"
    local = label(folder, "local", labels={"unit_bytes": 600, "codec": CODEC})
    assert content(url) == content(local)
    report = verify_store(url)
    assert (report.ok, report.notes) == (True, [])

    before = objects(client, "bucket/whole")
    assert label(folder, "whole", labels=labels("whole")) == url
    assert objects(client, "bucket/whole") == before
    with pytest.raises(IdentityMismatch, match="context"):
        label(folder, "whole", labels=labels("whole"), teacher=recipe(folder, "x")["teacher"] | {"context": 32})

    tokenizer = load_tokenizer(str(folder / "teacher"))
    batches = []
    for place in (labels("whole"), {"path": local, "codec": CODEC}):
        checked = Recipe.model_validate(recipe(folder, "whole", labels=place))
        samples = text_samples(checked, tokenizer, True, 16, long_documents="cut")
        assert samples.tokens(np.arange(len(samples))) > 400
        batches.append(samples.batch(np.arange(len(samples))))
    remote, near = batches
    assert remote.input_ids.equal(near.input_ids)
    assert isinstance(remote.labels, SparseLabels)
    assert isinstance(near.labels, SparseLabels)
    assert remote.labels.num_labels == len(remote.targets)
    assert remote.labels.ids.equal(near.labels.ids)
    assert remote.labels.weights.equal(near.labels.weights)
    assert where_secrets_are(objects(client, "bucket/whole")) == []


def test_a_failed_job_is_continued_in_the_bucket(folder: Path, client: Any) -> None:
    @contextmanager
    def dies(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
        deaths = {("unit-000002", attempt) for attempt in range(3)}
        yield InProcessPool(lambda: Replica(recipe.model_dump_json(), str(recipe.store_path)), deaths)

    with pytest.raises(KDError, match="unit-000002"):
        label(folder, "resumed", dies, labels=labels("resumed"))
    url = labels("resumed")["path"]
    assert not is_finished(url)
    kept = dict(read_receipts(url))
    probe = client.cat_file(f"{url}/probe.json")
    assert kept
    client.pipe_file(f"{url}/data/unit-000002-0-0123abcd.arrow", b"ARROW1 torn")  # of a killed attempt
    label(folder, "resumed", labels=labels("resumed"))
    assert set(kept.values()) <= set(open_store(url).manifest.shards)
    assert client.cat_file(f"{url}/probe.json") == probe
    assert content(url) == content(label(folder, "undisturbed", labels=labels("undisturbed")))
    removed = collect_garbage(url, min_age_seconds=0)
    assert [name for name in removed if not name.startswith("plan/")] == ["data/unit-000002-0-0123abcd.arrow"]
    assert verify_store(url).notes == []


@pytest.fixture
def session_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps logs and sockets (which need a short path)."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.mark.timeout(300)
def test_ray_actors_have_the_credentials_and_nothing_keeps_them(
    folder: Path, client: Any, session_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Processes on a cluster started here inherit the driver's environment; what Ray is told has no part of it."""
    ray = pytest.importorskip("ray")
    from cluster.connect import cluster_session
    from cluster.labelling.pool import ray_pool

    checked = Recipe.model_validate(recipe(folder, "on-ray", labels=labels("on-ray")))
    begin_run(checked)
    with cluster_session(checked.cluster):
        url = label(folder, "on-ray", ray_pool, labels=labels("on-ray"), cluster={"replicas": 1})
        environment_told = ray.get_runtime_context().get_runtime_env_string()
        told = {"job": environment_told.encode(), "jobs": repr(ray._private.state.jobs()).encode()}
    assert b"PYTHONPATH" in told["job"]  # so this is where a variable would be seen
    told["output"] = "".join(capfd.readouterr()).encode()
    logs = files_below(session_folder)
    assert any("raylet" in name for name in logs)
    assert where_secrets_are({**told, **logs}) == []
    assert where_secrets_are(files_below(checked.run_dir)) == []
    assert where_secrets_are(objects(client, "bucket/on-ray")) == []
    assert verify_store(url).ok
    assert content(url) == content(label(folder, "not-on-ray", labels=labels("not-on-ray")))
    assert open_place(url).sizes("data").keys() == {shard.shard for shard in open_store(url).manifest.shards}
