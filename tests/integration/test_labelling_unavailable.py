"""A storage that does not answer for a moment costs a job an attempt, not its life."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from kdcore.errors import StorageUnavailable, UnitFailed
from kdcore.store import open_place, verify_store
from kdcore.store.storage.place import Sink
from tests.support.labelling_runs import content, in_process, label
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_documents(tmp_path / "docs", 6)
    write_teacher(tmp_path / "teacher")
    return tmp_path


def failing(times: int, failed: list[str], real: Callable[..., Any]) -> Callable[..., AbstractContextManager[Sink]]:
    """A place's `writer` that is away the first `times` it is asked for a shard."""

    def writer(place: object, name: str) -> AbstractContextManager[Sink]:
        if name.startswith("data/") and len(failed) < times:
            failed.append(name)
            raise StorageUnavailable(f"cannot write {name}: 503")
        return real(place, name)

    return writer


def test_a_unit_whose_storage_is_away_once_is_labelled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(open_place(folder))
    undisturbed = content(label(folder, "undisturbed"))
    failed: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(kind, "writer", failing(1, failed, kind.writer))
        path = label(folder, "disturbed")
    assert len(failed) == 1
    assert verify_store(path).ok
    assert content(path) == undisturbed


def test_a_storage_that_stays_away_ends_the_job_and_names_the_unit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(open_place(folder))
    failed: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(kind, "writer", failing(1000, failed, kind.writer))
        with pytest.raises(UnitFailed, match=r"unit-000000 failed 3 times .*503"):
            label(folder, "away", in_process)
    assert sum(name.startswith("data/unit-000000-") for name in failed) == 3
    assert verify_store(label(folder, "away")).ok  # and goes on later


@pytest.mark.parametrize("name", ["journal/unit-000001.json", "manifest.json", "identity.json"])
def test_a_storage_that_does_not_answer_the_driver_is_asked_again(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(open_place(folder))
    real, failed = kind.put_if_absent, []

    def away_twice(place: Any, wanted: str, content: bytes) -> bool:
        if wanted == name and len(failed) < 2:
            failed.append(wanted)
            raise StorageUnavailable(f"cannot write {wanted}: 503")
        return real(place, wanted, content)

    undisturbed = content(label(folder, "undisturbed"))
    with monkeypatch.context() as patch:
        patch.setattr(kind, "put_if_absent", away_twice)
        path = label(folder, "disturbed", labels={**recipe(folder, "x")["labels"], "retry_seconds": 0.01})
    assert failed == [name, name]
    assert content(path) == undisturbed
    assert verify_store(path).ok
    once = {**recipe(folder, "x")["labels"], "max_attempts": 1}
    failed.clear()
    monkeypatch.setattr(kind, "put_if_absent", away_twice)
    with pytest.raises(StorageUnavailable, match="503"):
        label(folder, "away", labels=once)
