"""A full disk between checkpoints: what was logged stays, and the error says what to do."""

import contextlib
import resource
from collections.abc import Iterator

import pytest
from torch import nn

from kdcore.config.models import ImageClassifierConfig
from kdcore.errors import OutOfSpace, StoreError
from kdcore.students.export import export_student
from kdcore.training.metrics_log import MetricsLog, read_metrics

LINES = [{"step": step, "loss": 1.0, "seconds": float(step)} for step in range(1, 6)]


@contextlib.contextmanager
def full_at(size: int) -> Iterator[None]:
    """A limit on file sizes stands for a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def logged(tmp_path, monkeypatch):
    monkeypatch.setattr("kdcore.training.metrics_log._tensorboard", lambda *_: None)
    with MetricsLog(tmp_path, 0) as log:
        for line in LINES:
            log.write(line)
    return tmp_path


def test_resuming_on_a_full_disk_keeps_the_metrics(logged):
    with full_at(100), pytest.raises(OutOfSpace, match=r"metrics\.jsonl"):
        MetricsLog(logged, 5)
    assert [path.name for path in logged.iterdir()] == ["metrics.jsonl"]
    assert read_metrics(logged / "metrics.jsonl") == LINES


def test_a_line_that_finds_no_room_costs_itself_alone(logged):
    room = (logged / "metrics.jsonl").stat().st_size + 10
    with full_at(room), MetricsLog(logged, 5) as log, pytest.raises(OutOfSpace, match=r"metrics\.jsonl"):
        log.write({"step": 6, "loss": 1.0, "seconds": 6.0})
    with MetricsLog(logged, 5) as log:
        log.write({"step": 6, "loss": 2.0, "seconds": 6.0})
    assert [line["loss"] for line in read_metrics(logged / "metrics.jsonl")] == [1.0] * 5 + [2.0]


def test_an_export_that_finds_no_room_says_so_and_frees_what_it_took(tmp_path):
    model, config = nn.Linear(64, 64), ImageClassifierConfig()
    with full_at(1000), pytest.raises(OutOfSpace, match="needed at least 16,640 bytes"):
        export_student(model, tmp_path / "student", image_config=config, num_classes=3, in_channels=3)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_for_another_reason_says_which(tmp_path):
    (tmp_path / "arms").write_text("a file where the folder is to be")
    with pytest.raises(StoreError, match=r"cannot write .*arms"):
        export_student(nn.Linear(2, 2), tmp_path / "arms" / "student", image_config=ImageClassifierConfig())
