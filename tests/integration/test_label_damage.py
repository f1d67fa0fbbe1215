"""The benchmark of damage, a small part of it; and that it would say so if a store were served damaged."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.damage_children import Bench, Damage, Files, Found, look
from tests.benchmarks.damage_tally import Tally, reported
from tests.support.stores import make_store

pytest.importorskip("transformers")

pytestmark = pytest.mark.long

REPO = Path(__file__).resolve().parents[2]
WITHOUT_DIGESTS = """
import sys
import kdcore.store.verify as verify
from tests.benchmarks import label_damage as bench
verify.check_digest = lambda place, receipt, others: place.load(receipt.shard, receipt.bytes)
def measure(tally, plan):
    tally.run("truncations", bench.files.cuts(plan.contents, plan.shards, 8 * plan.every), bench.refused)
    bench._flipped(tally, plan)
bench.measure = measure
sys.argv[1:] = ["--quick"]
bench.main()
"""


def measured(command: list[str], status: int) -> dict[str, Any]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=REPO, env=settings)
    assert done.returncode == status, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert line["name"] == "label_damage"
    assert line["headline"]["bitflips"] == 300
    assert line["headline"]["truncations_served"] == line["signals"] == 0
    return line


def test_nothing_damaged_is_served() -> None:
    line = measured(["-m", "tests.benchmarks.label_damage", "--quick"], 0)
    assert line["headline"]["truncations"] > 90
    assert line["headline"]["bitflips_served"] == line["uncaught"] == 0
    assert len(line["classes"]) > 15


def test_without_digests_the_bench_says_what_is_served() -> None:
    line = measured(["-c", WITHOUT_DIGESTS], 1)
    assert line["headline"]["bitflips_served"] > 0
    assert line["uncaught"] > 0


def test_a_signal_and_an_error_without_a_name_are_counted(tmp_path: Path) -> None:
    tally = Tally(Bench(make_store(tmp_path / "whole"), tmp_path / "copy"))

    def fragile(store: Path, files: Files) -> Found:
        if "crash" in files:
            (store / "manifest.json").unlink()  # and it is whole again for the next one
            os.kill(os.getpid(), signal.SIGKILL)
        return Found("unnamed KeyError", "reported") if "raise" in files else look(store, files)

    damages = [
        Damage(name, lambda name=name: {name: None}) for name in ("identity.json", "crash", "raise", "identity.json")
    ]
    line = tally.run("fragile", damages, reported, fragile)
    assert line == {"tried": 4, "caught": 2, "read_right_and_reported": 2, "signals": 1, "unnamed_errors": 1}
    assert len(tally.uncaught) == 2
