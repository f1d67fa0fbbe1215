"""The same texts in every kind of input give the same labels; input and labels in a bucket that fails now and then."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from kdcore.config.data import TextData
from kdcore.config.recipe import Recipe
from kdcore.data.sources import open_source
from kdcore.errors import DataError, StorageUnavailable
from kdcore.store import verify_store
from tests.support.labelling_runs import content, label
from tests.support.s3_front import front
from tests.support.s3_server import SECRET, environment, s3_server
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

datasets = pytest.importorskip("datasets")
s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("transformers")

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A teacher and the same documents in every format."""
    path = tmp_path_factory.mktemp("inputs")
    write_documents(path / "docs", 12)
    write_teacher(path / "teacher")
    texts = [file.read_text() for file in sorted((path / "docs").iterdir())]
    table = pa.table({"number": list(range(len(texts))), "text": texts})
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    for name in ("lines", "packed", "parquet", "arrow"):
        (path / name).mkdir()
    (path / "lines" / "a.jsonl").write_bytes(lines)
    (path / "packed" / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (path / "packed" / "b.jsonl.zst").write_bytes(pa.compress(lines, "zstd", asbytes=True))
    for number in range(2):
        half = table.slice(6 * number, 6)
        pq.write_table(half, path / "parquet" / f"train-{number}.parquet", row_group_size=4)
        feather.write_feather(half, str(path / "arrow" / f"{number}.arrow"), chunksize=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(path / "cache"))  # of processes started here
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(path / "cache"))
        datasets.load_dataset(str(path / "parquet"), split="train").save_to_disk(str(path / "saved"))
        yield path


def data_of(folder: Path, kind: str) -> dict[str, Any]:
    hf = {"type": "hf_dataset", "heldout_fraction": 0.0}
    return {
        "lines": {"type": "text", "path": f"{folder}/lines/*.jsonl", "heldout_fraction": 0.0},
        "packed": {"type": "text", "path": f"{folder}/packed/*.gz", "heldout_fraction": 0.0},
        "parquet": {"type": "text", "path": f"{folder}/parquet/*.parquet", "heldout_fraction": 0.0},
        "arrow": {"type": "text", "path": f"{folder}/arrow/*.arrow", "heldout_fraction": 0.0},
        "saved": {**hf, "path": f"{folder}/saved"},
        "prepared": {**hf, "path": f"{folder}/parquet"},
        "streaming": {**hf, "path": f"{folder}/parquet", "streaming": True},
    }[kind]


def nameless(path: str) -> dict[bytes, tuple[Any, ...]]:
    """What a store says of its samples, less their names, which tell the file."""
    return {key: row[1:] for key, row in content(path).items()}


@pytest.fixture(scope="module")
def known(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """The labels of the documents as files of text."""
    found = nameless(label(folder, "whole"))
    assert len(found) == 11  # two of the twelve are identical
    return found


@pytest.mark.parametrize("kind", ["lines", "packed", "parquet", "arrow", "saved", "prepared", "streaming"])
def test_the_same_texts_have_the_same_labels(folder: Path, known: dict[bytes, Any], kind: str) -> None:
    assert nameless(label(folder, kind, data=data_of(folder, kind))) == known


def test_kd_precompute(folder: Path, known: dict[bytes, Any]) -> None:
    """The command itself, with actors that open the corpus by themselves; one cluster for both kinds."""
    pytest.importorskip("ray")
    from cluster.connect import cluster_session
    from jobs.main import app

    settings = recipe(folder, "x", cluster={"replicas": 1, "cpus_per_replica": 0.5})
    with cluster_session(Recipe.model_validate(settings).cluster):
        for kind in ("parquet", "streaming"):
            path = folder / f"{kind}.yaml"
            path.write_text(json.dumps({**settings, "name": f"kd-{kind}", "data": data_of(folder, kind)}))
            done = CliRunner().invoke(app, ["precompute", str(path)])
            assert done.exit_code == 0, done.output
            assert nameless(f"{folder}/runs/kd-{kind}/labels") == known


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def bucket(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A bucket with the corpora in it, behind a server that can be made to fail; what makes it fail."""
    with front(port) as (front_port, control):
        for name, value in environment(front_port, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        client = s3fs.S3FileSystem()
        if not client.exists("inputs"):
            client.mkdir("inputs")
            for file in (
                file for name in ("docs", "lines", "packed", "parquet", "arrow") for file in (folder / name).iterdir()
            ):
                client.pipe_file(f"inputs/deep/{file.parent.name}/{file.name}", file.read_bytes())
        yield control
        s3fs.S3FileSystem.clear_instance_cache()


def lines_of_manual(repo: Path) -> list[dict[str, Any]]:
    """The `data` sections that docs/data.md prints."""
    printed = re.findall(r"`(data: \{.*?\})`", (repo / "docs" / "data.md").read_text())
    return [yaml.safe_load(line)["data"] for line in printed]


def test_the_lines_of_the_manual(
    repo: Path, folder: Path, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    corpus = tmp_path / "corpus"
    for name in ("docs", "lines", "packed", "parquet", "arrow", "saved"):
        shutil.copytree(folder / name, corpus / name)
    feather.write_feather(pa.table({"text": ["a"]}), str(corpus / "arrow" / "c.feather"))
    (corpus / "card").mkdir()
    shutil.copy(corpus / "lines" / "a.jsonl", corpus / "card" / "train.jsonl")
    shutil.copy(corpus / "lines" / "a.jsonl", corpus / "card" / "validation.jsonl")
    (corpus / "images" / "cat").mkdir(parents=True)
    image.new("RGB", (4, 4)).save(corpus / "images" / "cat" / "1.png")
    picture = (corpus / "images" / "cat" / "1.png").read_bytes()
    (corpus / "pictures").mkdir()
    pq.write_table(pa.table({"image": [{"bytes": picture}], "label": [0]}), corpus / "pictures" / "train.parquet")
    client = s3fs.S3FileSystem()
    client.mkdir("bucket")
    for name in ("parquet/train-0.parquet", "images/cat/1.png"):
        client.put_file(str(corpus / name), f"bucket/corpus/{name}")
    monkeypatch.chdir(tmp_path)
    sections = lines_of_manual(repo)
    assert len(sections) == 15
    for section in sections:
        data = Recipe.model_validate({"name": "x", "data": section}).data
        if section["path"] != "org/name":  # on the hub
            source = open_source(data.model_copy(update={"heldout_fraction": 0}))
            assert all(source.read(ref) for ref in source.list("train"))


def remote(pattern: str) -> dict[str, Any]:
    return {"type": "text", "path": f"s3://inputs/{pattern}", "heldout_fraction": 0.0}


@pytest.mark.parametrize("pattern", ["deep/docs/*.txt", "deep/*/*.parquet"])
def test_input_and_labels_in_a_bucket_that_fails_now_and_then(
    folder: Path, known: dict[bytes, Any], bucket: Any, pattern: str
) -> None:
    bucket.failing = lambda: bucket.answered % 4 == 1
    name = "s3-" + "".join(letter for letter in pattern if letter.isalpha())
    url = label(folder, name, data=remote(pattern), labels={"path": f"s3://inputs/{name}", "unit_bytes": 600,
        "codec": {"type": "topk", "k": 4}})  # fmt: skip
    bucket.failing = lambda: False
    assert verify_store(url).ok
    assert nameless(url) == known


def test_a_bucket_that_is_away_or_not_there_is_one_clear_error(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(TextData(**remote("deep/parquet/*.parquet")))
    refs = source.list("train")
    bucket.failing = lambda: True
    for action in (lambda: source.list("train"), lambda: source.read(refs[0])):
        with pytest.raises(StorageUnavailable, match=r"s3://inputs/deep/parquet.*storage answers") as caught:
            action()
        assert SECRET not in str(caught.value)
    bucket.failing = lambda: False
    assert source.read(refs[0])
    for path in ("s3://no-such-bucket/*.jsonl", "s3://inputs/nothing/*.jsonl", "s3://inputs/deep/nothing.jsonl"):
        with pytest.raises(DataError, match=r"data\.path must match.*" + path.replace("*", r"\*")):
            open_source(TextData(path=path)).list("train")


def test_only_what_is_needed_is_fetched(bucket: Any, tmp_path: Path) -> None:
    client = s3fs.S3FileSystem()
    texts = [f"text {number}" for number in range(100)]
    noise = [bytes([number]) * 100_000 for number in range(100)]
    pq.write_table(
        pa.table({"noise": noise, "text": texts}), tmp_path / "a.parquet", row_group_size=10, compression="none"
    )
    client.put_file(str(tmp_path / "a.parquet"), "inputs/wide/a.parquet")
    before = bucket.sent
    source = open_source(TextData(**remote("wide/*.parquet")))
    assert [source.read(ref).text for ref in source.list("train")] == texts  # type: ignore[union-attr]
    assert 0 < bucket.sent - before < 1_000_000  # of ten million bytes
