"""A teacher over two processes: the answers and the identity of one, and no waiting for a rank that was killed."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from kdcore.config.models import TeacherLMConfig
from kdcore.errors import TeacherError
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.split import FollowingTeacher, LeadingTeacher
from tests.support.tiny_teacher import write_teacher

pytest.importorskip("transformers")

TIMEOUT = 15.0
STOPS = (0, signal.SIGKILL, signal.SIGSTOP)
WINDOWS = [np.arange(length) % 50 for length in (24, 9, 17)]


def settings(folder: Path, ranks: int) -> TeacherLMConfig:
    return TeacherLMConfig(path=str(folder / "teacher"), context=24, overlap=8, tensor_parallel=ranks)


def work(folder: Path, rank: int, stop: int) -> None:
    """One rank; rank 1 sends itself the signal `stop`, if any, after the first answer, and rank 0 goes on asking."""
    told = os.open(folder / f"said-{stop}-{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(told, 1)
    os.dup2(told, 2)
    from cluster.labelling.replica.group import join_group, leave_group, open_meeting

    torch.set_num_threads(1)
    where = folder / f"meeting-{stop}.json"
    if rank == 0:
        meeting = open_meeting("127.0.0.1", 2, TIMEOUT)
        (folder / "meeting.new").write_text(json.dumps(["127.0.0.1", meeting.port]))
        (folder / "meeting.new").rename(where)
    else:
        while not where.exists():
            time.sleep(0.05)
        address, port = json.loads(where.read_text())
        meeting = (address, port)
    join_group(rank, 2, meeting, TIMEOUT)
    teacher = CausalLMTeacher(settings(folder, 2), device="cpu")
    logits = teacher.window_logits(WINDOWS)
    if stop:
        if rank == 1:
            os.kill(os.getpid(), stop)
        teacher.window_logits(WINDOWS)
        return
    shares = [tuple(weight.to_local().shape) for weight in teacher.model.parameters() if isinstance(weight, DTensor)]
    with pytest.raises(TeacherError, match="feature"):
        teacher.feature_layers(["model.norm"])
    torch.save({"logits": logits, "identity": teacher.identity(), "shares": shares}, folder / f"rank{rank}.pt")
    if rank:
        FollowingTeacher(settings(folder, 2), device="cpu").follow()
    else:
        torch.save(written(LeadingTeacher(settings(folder, 2), TIMEOUT, device="cpu")), folder / "written.pt")
    leave_group()


def written(teacher: CausalLMTeacher) -> list[torch.Tensor]:
    """Answers of a teacher that writes: two texts, of which the first goes."""
    teacher.begin_slots(2, 5)
    found = [teacher.decode(np.array([3, 5]), np.array([place, place])) for place in range(3)]
    teacher.keep_slots(np.array([1]))
    found.append(teacher.decode(np.array([7]), np.array([3])))
    if isinstance(teacher, LeadingTeacher):
        with pytest.raises(TeacherError, match="positions"):
            teacher.begin_slots(2, 1000)
        assert not teacher.torn  # what is refused alone leaves the others where they are
        teacher.rest()
    return found


def work_twice(folder: Path, stop: int) -> list[int | None]:
    """The exit codes of two ranks when rank 0 has ended; None is a rank that has not."""
    ranks = [multiprocessing.get_context("fork").Process(target=work, args=(folder, rank, stop)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    ranks[0].join(TIMEOUT + 60)
    if stop != signal.SIGSTOP:
        ranks[1].join(10)
    codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    return codes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All is done by one program, whose ranks are forks: the import of torch and transformers is most of a rank."""
    folder = tmp_path_factory.mktemp("split")
    write_teacher(folder / "teacher")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, __file__, str(folder)], env=environment, check=True, timeout=280)
    return folder


def ended(folder: Path, stop: int) -> tuple[list[int | None], str]:
    """The exit codes of both ranks, and what rank 0 said."""
    return json.loads((folder / f"codes-{int(stop)}.json").read_text()), (folder / f"said-{int(stop)}-0").read_text()


def test_two_ranks_answer_like_one(folder: Path) -> None:
    codes, said = ended(folder, 0)
    assert codes == [0, 0], said
    one = CausalLMTeacher(settings(folder, 1), device="cpu")
    whole = [logits.log_softmax(1) for logits in one.window_logits(WINDOWS)]
    for rank in range(2):
        found = torch.load(folder / f"rank{rank}.pt", weights_only=True)
        assert found["identity"] == one.identity()
        assert (16, 32) in found["shares"]  # half of q_proj: it was split indeed
        for mine, wanted in zip(found["logits"], whole, strict=True):
            assert mine.shape == wanted.shape
            assert (mine.log_softmax(1) - wanted).abs().max() < 1e-4


def test_two_ranks_write_like_one(folder: Path) -> None:
    one = written(CausalLMTeacher(settings(folder, 1), device="cpu"))
    for mine, wanted in zip(torch.load(folder / "written.pt", weights_only=True), one, strict=True):
        assert (mine.log_softmax(1) - wanted.log_softmax(1)).abs().max() < 1e-4


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_gone_ends_the_other(folder: Path, stop: signal.Signals) -> None:
    codes, said = ended(folder, stop)
    assert codes == [1, -stop if stop == signal.SIGKILL else None], said
    assert "window_logits" in said  # in the second answer, not before


if __name__ == "__main__":
    where = Path(sys.argv[1])
    CausalLMTeacher(settings(where, 1), device="cpu")  # so that all is imported
    for stop in STOPS:
        (where / f"codes-{int(stop)}.json").write_text(json.dumps(work_twice(where, int(stop))))
