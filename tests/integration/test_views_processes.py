"""Views are drawn, packed and rendered the same in every process, whatever its threads, batches and seeds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import numpy as np, torch
from kdcore.data.views import apply_views, pack_views
from kdcore.identity import digest_bytes
from tests.support.views import FULL, MEAN, STD, drawn, images_of

threads, batch = map(int, sys.argv[1:])
torch.set_num_threads(threads)
torch.manual_seed(threads)
policy = FULL.model_copy(update={"per_image": 12})
images, views, partners = drawn(policy, images_of(8, 60, 130))
parts = [slice(start, start + batch) for start in range(0, len(views), batch)]
pixels = torch.cat([apply_views(policy, images[p], views[p], partners[p], MEAN, STD, 48) for p in parts])
packed, lengths = pack_views(policy, views)
print(digest_bytes(packed.tobytes()), digest_bytes(pixels.numpy().tobytes()))
"""


def digests(repo: Path, threads: int, batch: int, hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(repo), "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", SCRIPT, str(threads), str(batch)]
    done = subprocess.run(command, env=environment, cwd=repo, capture_output=True, text=True, check=True, timeout=240)
    return done.stdout.split()


@pytest.fixture(scope="module")
def alone(repo: Path) -> list[str]:
    return digests(repo, 1, 96, "0")


@pytest.mark.parametrize(("threads", "batch"), [(3, 7), (1, 1)])
def test_another_process_sees_the_same_views(repo: Path, alone: list[str], threads: int, batch: int) -> None:
    assert len(alone) == 2
    assert digests(repo, threads, batch, str(threads)) == alone
