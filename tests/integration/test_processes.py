"""What must be the same in every process: draws, seeds, and compiled code where nothing can be cached."""

import hashlib
import os
import subprocess
import sys

import pytest

from kdcore.labels import label_seeds
from tests.support.labels import KEY, codec_of, logits_of

DIGEST = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(int(sys.argv[2]))
from test_processes import encoded_digest
print(encoded_digest())
"""


def encoded_digest() -> str:
    """Of labels of both codecs, both ways of drawing."""
    found = hashlib.sha256()
    for name in ("threshold", "sampled"):
        for classes in (129, 20_000):
            logits, seeds = logits_of(300, classes), label_seeds(KEY, 300, seed=5)
            codec = codec_of(name, 20, classes)
            encoded = codec.encode(logits, seeds)
            for part in (*encoded.values(), *codec.pack([encoded], [logits.argmax(1).numpy()])[0].values()):
                found.update(part.tobytes())
    return found.hexdigest()


def test_labels_are_the_same_in_every_process(repo):
    wanted = encoded_digest()
    for threads, hash_seed in (("1", "1"), ("2", "2")):
        run = subprocess.run(
            [sys.executable, "-c", DIGEST, str(repo / "tests" / "integration"), threads],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(repo), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip() == wanted


def test_without_a_folder_for_its_cache_numba_compiles_anyway(repo):
    """As with packages that only root can write, and no home."""
    pytest.importorskip("numba")
    code = "from kdcore.labels.coder.compiled import compiled; print(compiled().label_pieces._cache.__class__.__name__)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repo,
        env={**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.strip() == "NullCache", run.stderr
