"""`kd store` with what unit tests do without: pictures of every store, a tokenizer, processes, a real S3 server."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from kdcore.errors import TokenizerMismatch
from kdcore.identity import digest_tokenizer
from kdcore.store import collect_garbage, merge_stores
from tests.support.store_tools import NAMES, A, B, kd, make_codec_store, rows_of

TEXTS = {"alpha": 1, "beta beta": 2, "d": 1, "gamma!": 1}
TOKENIZER = "models/stdlib-lm-4m"


@pytest.fixture(scope="module")
def tokenizer(repo):
    pytest.importorskip("transformers")
    from kdcore.models.tokenizer import load_tokenizer

    return load_tokenizer(str(repo / TOKENIZER))


def test_tokens_are_text_where_the_tokenizer_is_the_stores(tmp_path, tokenizer, repo):
    path = make_codec_store(tmp_path / "s", "threshold", [TEXTS], tokenizer=digest_tokenizer(tokenizer))
    code, output = kd("sample", path, "--row", 0, "--labels", 2, "--json", "--tokenizer", repo / TOKENIZER)
    assert code == 0, output
    label = json.loads(output)["labels"][0]
    assert label["token_text"] == tokenizer.decode([label["token"]])
    assert label["entries"][0]["text"] == tokenizer.decode([label["entries"][0]["id"]])
    assert repr(label["next_text"]) in kd("sample", path, "--row", 0, "--tokenizer", repo / TOKENIZER)[1]


def test_another_tokenizer_is_refused_with_both_digests(tmp_path, tokenizer, repo):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS], tokenizer="f" * 32)
    code, output = kd("sample", path, "--tokenizer", repo / TOKENIZER)
    assert code == 2
    assert "f" * 32 in output
    assert digest_tokenizer(tokenizer) in output
    image = make_codec_store(tmp_path / "i", "topk", [TEXTS], "image")
    code, output = kd("sample", image, "--tokenizer", repo / TOKENIZER)
    assert code == 2
    assert TokenizerMismatch.__name__ in output


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", NAMES)
def test_every_store_has_a_picture(tmp_path, name, kind):
    path = make_codec_store(tmp_path / "s", name, [TEXTS], kind, extra={} if name == "dense8" else None)
    code, output = kd("plot", path, "--output", tmp_path / "p.png")
    assert code == 0, output
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_tool_says_what_it_does_without_torch(repo):
    code = """
import sys
from typer.testing import CliRunner
from jobs.store import app
for tool in ("info", "verify", "plot", "sample", "merge", "compact", "gc", "export", "import"):
    done = CliRunner().invoke(app, [tool, "--help"])
    assert done.exit_code == 0 and "Usage" in done.output, tool
sys.exit(any(name in sys.modules for name in ("torch", "pyarrow", "numpy", "matplotlib")))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False, cwd=repo).returncode == 0


def test_the_module_is_the_command(tmp_path, repo):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS])
    done = subprocess.run(
        [sys.executable, "-m", "jobs.store", "info", str(path)], capture_output=True, text=True, cwd=repo, check=False
    )
    assert done.returncode == 0, done.stderr


def test_everything_works_in_a_bucket(tmp_path, monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    from tests.support.s3_server import environment, s3_server

    with s3_server() as port:
        for name, value in environment(port, tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        client = s3fs.S3FileSystem()
        client.mkdir("tools")
        a, b = make_codec_store("s3://tools/a", "threshold", A), make_codec_store(tmp_path / "b", "threshold", B)
        for arguments in (
            ("merge", "s3://tools/m", a, b),
            ("compact", "s3://tools/m", "s3://tools/c", "--shard-bytes", "1GB"),
            ("export", "s3://tools/c", "s3://tools/x/labels.parquet", "--top", 3),
            ("export", "s3://tools/c", "s3://tools/y", "--top", 3, "--rows", 2),
            ("plot", "s3://tools/c", "--output", "s3://tools/x/c.png"),
            *((tool, "s3://tools/c") for tool in ("info", "verify", "sample", "gc")),
        ):
            code, output = kd(*arguments)
            assert code == 0, output
        merge_stores(tmp_path / "m", ["s3://tools/a", b])
        assert rows_of("s3://tools/c") == rows_of("s3://tools/m") == rows_of(tmp_path / "m")
        assert collect_garbage("s3://tools/c", 0) == []
        with client.open("tools/x/labels.parquet") as file:
            names = [row["name"] for row in pq.read_table(file).to_pylist()]
        assert names == ["alpha", "beta beta", "gamma", "d", "delta", "epsilon", "zeta"]
        assert len(client.glob("tools/y/data_*.parquet")) == 4
        assert client.cat_file("tools/x/c.png")[:4] == b"\x89PNG"
        s3fs.S3FileSystem.clear_instance_cache()
