"""Damaged words through the compiled decoder, in processes that a signal could end."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("numba")

CORRUPTIONS = """
import numpy as np
from tests.support.labels import CODECS, model_of, packed, random_labels
from kdcore.errors import LabelError
from kdcore.labels import RowView
from kdcore.labels.coder.compiled import compiled
assert compiled() is not None
rng = np.random.default_rng(1)
refused = served = 0
for draws, classes in ((1, 1), (7, 40), (50, 3000), (575, 5000), (3, 262_144)):
    labels = random_labels(rng, 300, draws, classes, np.arange(min(classes, 4000)))
    ends = np.cumsum(labels["entries"])
    codec = CODECS["threshold"](model_of(labels, draws, classes, labels["ids"][ends - 1]))
    row = packed(codec, [labels], [labels["ids"][ends - 1].astype(np.int64)], [300])[0]
    for trial in range(2000):
        codes, sizes = row.columns["codes"].copy(), row.columns["block_words"].copy()
        kind = trial % 5
        if kind == 0:
            codes[rng.integers(len(codes))] ^= 1 << rng.integers(16)
        elif kind == 1:
            codes[:] = rng.integers(0, 1 << 16, len(codes))
        elif kind == 2:
            codes[rng.integers(len(codes)):] = rng.choice([0, 65535])
        elif kind == 3:
            sizes = rng.multinomial(len(codes), rng.dirichlet([1, 1, 1])).astype(np.int32)
        else:
            codes = np.roll(codes, rng.integers(1, len(codes)))
        targets = row.targets if trial % 2 else rng.integers(-5, classes + 5, 300)
        start = int(rng.integers(300))
        stop = int(rng.integers(start, 301))
        try:
            found = codec.decode([RowView({"codes": codes, "block_words": sizes}, 300, targets)], [start], [stop])
        except LabelError:
            refused += 1
            continue
        served += 1
        assert found.num_labels == stop - start
        assert not len(found.ids) or 0 <= int(found.ids.min()) <= int(found.ids.max()) < classes
        assert int(found.offsets[-1]) == len(found.ids)
print(refused, served)
"""


@pytest.mark.parametrize("checked", ["0", "1"])
def test_ten_thousand_corruptions_never_crash_the_compiled_route(repo, tmp_path, checked):
    """In a process of its own: a read outside of an array could end it by a signal. The second time, compiled anew with
    checks of every index, it would end it for sure.
    """
    caches = {"NUMBA_CACHE_DIR": str(tmp_path)} if checked == "1" else {}
    run = subprocess.run(
        [sys.executable, "-c", CORRUPTIONS],
        cwd=repo,
        env={**os.environ, "NUMBA_BOUNDSCHECK": checked, **caches},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    refused, served = map(int, run.stdout.split())
    assert refused + served == 10_000
    assert refused > 5_000
