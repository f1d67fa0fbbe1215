"""Submitting twice does no harm; relative paths do not travel."""

from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from cluster.remote_jobs import RemoteJobs
from jobs.main import app
from jobs.submit import _follow
from kdcore.errors import ClusterError

Status = Enum("Status", {name: name for name in ("RUNNING", "SUCCEEDED", "FAILED", "STOPPED")}, type=str)


class Cluster(RemoteJobs):
    """The jobs of no cluster."""

    def __init__(self, **jobs: str) -> None:
        self.jobs = jobs
        self.answers_lost = False

    def find(self, job_id: str) -> Any:
        status = self.jobs.get(job_id)
        return None if status is None else SimpleNamespace(status=Status[status], message="")

    def _start(self, job_id: str, entrypoint: str, folder: Path, metadata: dict[str, str]) -> None:
        self.jobs[job_id] = "RUNNING"
        if self.answers_lost:
            raise ClusterError("lost")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, ("a", True)),
        ({"a": "RUNNING"}, ("a", False)),
        ({"a": "SUCCEEDED"}, ("a", False)),
        ({"a": "FAILED"}, ("a-2", True)),
        ({"a": "STOPPED", "a-2": "FAILED"}, ("a-3", True)),
        ({"a": "FAILED", "a-2": "RUNNING"}, ("a-2", False)),
    ],
)
def test_the_same_job_is_submitted_once(there: dict[str, str], expected: tuple[str, bool], tmp_path: Path) -> None:
    assert Cluster(**there).submit("a", "true", tmp_path, {}, lambda: True) == expected


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"a": "SUCCEEDED"}, ("a-2", True)),
        ({"a": "SUCCEEDED", "a-2": "SUCCEEDED"}, ("a-3", True)),
        ({"a": "SUCCEEDED", "a-2": "RUNNING"}, ("a-2", False)),
    ],
)
def test_success_without_what_it_makes_is_submitted_again(
    there: dict[str, str], expected: tuple[str, bool], tmp_path: Path
) -> None:
    assert Cluster(**there).submit("a", "true", tmp_path, {}, lambda: False) == expected


def test_a_lost_answer_starts_no_second_job(tmp_path: Path) -> None:
    cluster = Cluster()
    cluster.answers_lost = True
    assert cluster.submit("a", "true", tmp_path, {}) == ("a", False)
    assert list(cluster.jobs) == ["a"]


def test_relative_paths_are_refused_before_anything_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    tree = {
        "name": "far",
        "data": {"type": "text", "path": "docs/*.txt"},
        "teacher": {"type": "causal_lm", "path": "some/hub-name"},
        "labels": {"path": "/shared/labels"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(app, ["submit", "precompute", "recipe.yaml", "--address", "http://127.0.0.1:1"])
    assert result.exit_code == 2
    assert "runs 'runs', data.path 'docs/*.txt': the nodes" in result.output


def test_a_relative_chat_template_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "talk.jinja").touch()
    data = {"type": "text", "path": "/shared/talks.jsonl", "messages_field": "messages"}
    tree = {
        "name": "far",
        "data": data,
        "teacher": {"type": "causal_lm", "path": "some/hub-name"},
        "runs": "/shared/runs",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    given = ["recipe.yaml", "data.chat_template=talk.jinja", "--address", "http://127.0.0.1:1"]
    result = CliRunner().invoke(app, ["submit", "precompute", *given])
    assert result.exit_code == 2
    assert "data.chat_template 'talk.jinja'" in result.output


def test_ctrl_c_leaves_the_job_running_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    jobs: Any = SimpleNamespace(follow=interrupted, address="http://head:8265")
    with pytest.raises(typer.Exit) as left:
        _follow(jobs, "kd-a", "precompute", SimpleNamespace())  # type: ignore[arg-type]
    assert left.value.exit_code == 130
    assert "the job runs on: kd stop kd-a --address http://head:8265" in capsys.readouterr().out
