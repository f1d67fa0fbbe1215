"""What the first rank decides for all, as another rank sees it."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.distributed as dist

from kdcore.config import TrainingConfig
from kdcore.errors import CheckpointError, OutOfSpace
from kdcore.training import run
from kdcore.training.attention import agreed_layout
from kdcore.training.checkpoint import begin, checkpoint_path, finish_checkpoint
from kdcore.training.ranks import Ranks, process_ranks


@dataclass(frozen=True)
class Exchanges(Ranks):
    """A rank of two: what the other says is given, and what this one says in sums is noted."""

    decided: int = 0
    failed: int = 0
    full: int = 0
    said: list[Any] = field(default_factory=list)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.said.append(values.tolist())
        return values + torch.tensor([self.failed, self.full])

    def from_first(self, value: int) -> int:
        assert not self.failed, "the first rank is not there to say it"
        return self.decided


def exchanges(rank: int, decided: int = 0, failed: int = 0) -> Exchanges:
    return Exchanges(rank, 2, torch.device("cpu"), decided, failed)


class Student(torch.nn.Module):
    """Notes which attention it is told to use."""

    attention = "sdpa"

    def get_decoder(self) -> Any:
        raise AssertionError("only the first rank tries it")

    def set_attn_implementation(self, name: str) -> None:
        self.attention = name


@pytest.mark.parametrize(
    ("decided", "layout", "attention"), [(0, "padded", "sdpa"), (1, "rows", "sdpa"), (2, "flat", "kdcore_varlen")]
)
def test_the_layout_is_the_first_ranks(decided, layout, attention):
    student = Student()
    assert agreed_layout(student, TrainingConfig(steps=1), exchanges(1, decided=decided)) == (layout, "")
    assert student.attention == attention


def a_run(ranks: Ranks) -> Any:
    return SimpleNamespace(ranks=ranks, arm=SimpleNamespace(name="arm"), steps=1, report=print)


def test_no_rank_waits_for_a_first_one_that_cannot_read_its_checkpoints(tmp_path: Path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"looking for a checkpoint .* failed on 1 other"):
        run._resume(a_run(exchanges(1, failed=1)), tmp_path, SimpleNamespace())  # pyright: ignore[reportArgumentType]

    def unreadable(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(run, "latest_checkpoint", unreadable)
    first = exchanges(0)
    with pytest.raises(OSError, match="Input/output"):
        run._resume(a_run(first), tmp_path, SimpleNamespace())  # pyright: ignore[reportArgumentType]
    assert first.said == [[1, 0]]


def test_a_run_that_goes_on_sets_aside_what_is_torn(tmp_path: Path):
    for step in (2, 4):
        begin(checkpoint_path(tmp_path, step))
        finish_checkpoint(tmp_path, step, 2, {"bad_steps": {"step": step}})
    (checkpoint_path(tmp_path, 4) / "complete.json").unlink()
    loop, engine = SimpleNamespace(bad_steps=Mock()), Mock()
    going_on = a_run(Ranks(0, 1, torch.device("cpu")))
    going_on.engine = engine
    assert run._resume(going_on, tmp_path, loop) == 2  # pyright: ignore[reportArgumentType]
    loop.bad_steps.restore.assert_called_once_with({"step": 2})
    assert engine.load.call_args.args[0] == checkpoint_path(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-step-00000004", "latest", "step-00000002"]
    assert (tmp_path / "latest").read_text() == "step-00000002\n"


@pytest.mark.parametrize(("full", "error"), [(1, OutOfSpace), (0, FileNotFoundError)])
def test_a_rank_that_misses_what_a_full_disk_of_another_removed_says_that_it_is_full(full, error):
    def missing() -> None:
        raise FileNotFoundError(2, "No such file")

    ranks = Exchanges(1, 2, torch.device("cpu"), failed=1, full=full)
    with pytest.raises(error, match=r"failed on 1 other rank\(s\), whose disk is full" if full else "No such file"):
        ranks.together(missing, "saving")


def test_no_rank_goes_on_when_one_could_not_load(tmp_path: Path):
    begin(checkpoint_path(tmp_path, 2))
    finish_checkpoint(tmp_path, 2, 2, {"bad_steps": {}})

    def load(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    here = a_run(exchanges(1, decided=2))
    here.engine = SimpleNamespace(load=load)
    with pytest.raises(OSError, match="Input/output"):
        run._resume(here, tmp_path, SimpleNamespace())  # pyright: ignore[reportArgumentType]
    assert here.ranks.said[-2:] == [[0, 0], [1, 0]]  # it could read, not load
    other = a_run(OneFails(1, 2, torch.device("cpu"), 2, at=3))
    other.engine = Mock()
    with pytest.raises(CheckpointError, match=r"loading the checkpoint .* failed on 1 other"):
        run._resume(other, tmp_path, SimpleNamespace())  # pyright: ignore[reportArgumentType]
    other.engine.load.assert_called_once()


@dataclass(frozen=True)
class OneFails(Exchanges):
    """The other rank fails at the exchange of this number."""

    at: int = 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.said.append(values.tolist())
        return values + torch.tensor([int(len(self.said) == self.at), 0])


def test_ranks_wait_for_what_the_first_does_alone_longer_than_nccl_would(monkeypatch):
    asked: dict[str, Any] = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **given: asked.update(given))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with process_ranks():
        pass
    # A conversion or an export of tens of gigabytes, at 100 MB a second.
    assert asked["timeout"] >= timedelta(hours=1)
