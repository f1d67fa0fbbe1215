"""Two labelling jobs on one store at once: they share its units, and the store is that of one job."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.labelling.planning import plan_work
from cluster.labelling.replica import answers
from cluster.labelling.replica.replica import Replica
from cluster.labelling.run import label_store
from kdcore.config.recipe import Recipe
from kdcore.store import open_store, publish_receipt, read_receipts, verify_store
from tests.support.labelling_hooks import wait_for
from tests.support.labelling_runs import content, in_process, label
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")

LABELS = {"unit_bytes": 300, "codec": {"type": "topk", "k": 4}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sharing")
    write_documents(path / "docs", 90)
    write_teacher(path / "teacher")
    return path


def computing(called: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell `called` of each unit that is labelled and not merely found."""
    rows = answers.TextAnswers.rows

    def told(self: Any, unit: str, *arguments: Any) -> Any:
        called(unit)
        return rows(self, unit, *arguments)

    monkeypatch.setattr(answers.TextAnswers, "rows", told)


def in_child(action: Callable[[], object]) -> int:
    """Fork; the child's process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return child


@pytest.mark.timeout(300)
def test_two_jobs_at_once_share_the_units(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = folder / "begun"
    begun.mkdir()

    def together(unit: str) -> None:
        """The first unit of each waits for the other job to be there."""
        (begun / f"{os.getpid()}-{unit}").touch()
        wait_for(lambda: len({file.name.split("-")[0] for file in begun.iterdir()}) == 2)

    computing(together, monkeypatch)
    jobs = [in_child(lambda: label(folder, "shared", labels=LABELS)) for _ in range(2)]
    assert [os.waitpid(job, 0)[1] for job in jobs] == [0, 0]
    monkeypatch.undo()

    shared = folder / "runs" / "shared" / "labels"
    computed = [len(list(begun.glob(f"{job}-*"))) for job in jobs]
    units = len(open_store(shared).manifest.shards)
    assert units > 30
    assert min(computed) > 0
    assert units <= sum(computed) <= units + units // 2  # all of them twice in one order; some 4 more are usual
    assert verify_store(shared).ok
    assert content(shared) == content(label(folder, "alone", labels=LABELS))


def test_a_unit_that_has_a_receipt_is_answered_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And, of a job that comes late, is no part of what that job says it did."""
    settings = Recipe.model_validate(recipe(folder, "late", labels=LABELS))
    told: list[str] = []
    computing(told.append, monkeypatch)

    plan = plan_work(settings, lambda note: None)
    replica = Replica(settings.model_dump_json(), settings.store_path)
    replica.identity()
    unit = plan.units[3]
    first = replica.label(unit, "theirjob-0")
    assert told == [unit.id]
    publish_receipt(settings.store_path, first)
    assert vars(replica.label(unit, "ourjob-0")) == vars(first)
    assert told == [unit.id]
    os.truncate(Path(settings.store_path) / first.shard, first.bytes - 1)
    second = replica.label(unit, "ourjob-1")
    assert told == [unit.id] * 2
    assert (second.digest, second.shard == first.shard) == (first.digest, False)


def test_units_that_another_job_finishes_meanwhile_are_left_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Recipe.model_validate(recipe(folder, "overtaken", labels=LABELS))
    told: list[str] = []

    def overtaken(unit: str) -> None:
        """While this job is at its first unit, another one does all the others."""
        told.append(unit)
        if len(told) > 1:
            return
        plan = plan_work(settings, lambda note: None)
        other = Replica(settings.model_dump_json(), settings.store_path)
        for each in plan.units:
            if each.id != unit:
                publish_receipt(settings.store_path, other.label(each, "theirjob-0"))
        theirs.extend(told[1:])
        told[1:] = []

    theirs: list[str] = []
    computing(overtaken, monkeypatch)
    path = label_store(settings, lambda note: None, in_process)
    units = len(read_receipts(path))
    assert len(told) == 1
    assert len(theirs) == units - 1
    assert f"units {units} of {units}, 0 retried, 0 failed" in capsys.readouterr().err
    assert content(path) == content(label(folder, "not-overtaken", labels=LABELS))
