"""SIGKILL a labelling job before each step that makes something durable, from the probe to the manifest."""

import itertools
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from kdcore.errors import IncompleteStore
from kdcore.store import collect_garbage, open_store, verify_store
from tests.support.labelling_runs import content, label, orphans
from tests.support.tiny_teacher import write_documents, write_teacher

pytest.importorskip("transformers")

STEPS = ("fsync", "link", "rename", "replace")
LABELS = {"unit_bytes": 900, "codec": {"type": "threshold", "budget_bytes": 6}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("steps")
    write_documents(path / "docs", 9)
    write_teacher(path / "teacher")
    return path


def labelled(folder: Path, name: str) -> Path:
    return Path(label(folder, name, labels=LABELS))


def die_at(step: int, log: Path) -> None:
    """Let `step` durable calls pass; the process kills itself before the next one."""
    calls = itertools.count()
    for name in STEPS:
        original = getattr(os, name)

        def call(*args: Any, name: str = name, original: Any = original) -> None:
            if next(calls) == step:
                with open(log, "a") as file:
                    file.write(f"{name} {args}\n")
                os.kill(os.getpid(), signal.SIGKILL)
            original(*args)

        setattr(os, name, call)


def killed_at(folder: Path, name: str, step: int, log: Path) -> bool:
    """Label in a child that is killed before durable call number `step`; False when it finished first."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            die_at(step, log)
            labelled(folder, name)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.timeout(900)
def test_a_job_killed_at_any_step_is_continued_to_the_same_store(folder: Path, tmp_path: Path) -> None:
    calm = labelled(folder, "calm")
    wanted, probe = content(calm), (calm / "probe.json").read_bytes()
    assert len(open_store(calm).manifest.shards) == 2
    store, log, collected = folder / "runs" / "killed" / "labels", tmp_path / "log", 0
    for step in itertools.count():
        shutil.rmtree(store, ignore_errors=True)
        if not killed_at(folder, "killed", step, log):
            break
        try:
            assert content(store) == wanted  # killed after its manifest
        except IncompleteStore:
            assert not (store / "manifest.json").exists()
        assert labelled(folder, "killed") == store
        assert content(store) == wanted
        assert (store / "probe.json").read_bytes() == probe
        found = orphans(store)
        assert set(collect_garbage(store, min_age_seconds=0)) == found
        assert orphans(store) == set()
        assert verify_store(store).ok
        assert content(store) == wanted
        collected += len(found)
    lines = log.read_text().splitlines()
    for name in ("probe.json", "identity.json", "unit-000001", "index-", "README.md", "manifest.json"):
        assert any(name in line and not line.startswith("fsync") for line in lines), name
    assert collected > 5
