"""A teacher over two processes: the answers and the identity of one, and no waiting for a rank that was killed."""

import json
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
from tests.support.tiny_teacher import write_teacher

pytest.importorskip("transformers")

TIMEOUT = 15.0
WINDOWS = [np.arange(length) % 50 for length in (24, 9, 17)]


def settings(folder: Path, ranks: int) -> TeacherLMConfig:
    return TeacherLMConfig(path=str(folder / "teacher"), context=24, overlap=8, tensor_parallel=ranks)


def work(folder: Path, rank: int, stop: int) -> None:
    """One rank; rank 1 sends itself the signal `stop`, if any, after the first answer, and rank 0 goes on asking."""
    from cluster.labelling.replica.group import join_group, leave_group, open_meeting

    torch.set_num_threads(1)
    where = folder / "meeting.json"
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
    leave_group()


def start(folder: Path, stop: int = 0) -> list[subprocess.Popen[str]]:
    (folder / "meeting.json").unlink(missing_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank), str(stop)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    write_teacher(folder / "teacher")
    return folder


def test_two_ranks_answer_like_one(folder: Path) -> None:
    ranks = start(folder)
    said = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    one = CausalLMTeacher(settings(folder, 1), device="cpu")
    whole = [logits.log_softmax(1) for logits in one.window_logits(WINDOWS)]
    for rank in range(2):
        found = torch.load(folder / f"rank{rank}.pt", weights_only=True)
        assert found["identity"] == one.identity()
        assert (16, 32) in found["shares"]  # half of q_proj: it was split indeed
        for mine, wanted in zip(found["logits"], whole, strict=True):
            assert mine.shape == wanted.shape
            assert (mine.log_softmax(1) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_gone_ends_the_other(folder: Path, stop: signal.Signals) -> None:
    ranks = start(folder, stop)
    try:
        said, _ = ranks[0].communicate(timeout=TIMEOUT + 60)
        assert ranks[0].returncode == 1, said
        assert "window_logits" in said  # in the second answer, not before
        assert ranks[1].poll() == (-stop if stop == signal.SIGKILL else None)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
