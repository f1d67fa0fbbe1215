"""Both quickstart recipes, from nothing to the report: was the teacher worth it, in what time, at what cost?

`student_minus_baseline_loss`: held-out loss of the text student minus that of the same student without the teacher,
mean over the seeds (negative: the teacher helped). `seconds`: both recipes, wall clock, interpreters started anew.
`bytes_per_token`: the text store's shards, all columns and their framing, for one labelled token.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.harness import REPO, emit, progress

RECIPES = sorted((REPO / "configs").glob("quickstart-*.yaml"))
TEXT = ("text", "python_stdlib")


def is_text(recipe: Path) -> bool:
    return yaml.safe_load(recipe.read_text())["data"]["type"] in TEXT


def distill(recipe: Path, runs: Path, overrides: list[str]) -> tuple[Path, float]:
    """Run one recipe into `runs`; its run directory and its seconds. What it prints goes to stderr."""
    command = [sys.executable, "-m", "jobs.distill", str(recipe.relative_to(REPO)), f"runs={runs}", *overrides]
    started = time.perf_counter()
    subprocess.run(command, check=True, cwd=REPO, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    return runs / yaml.safe_load(recipe.read_text())["name"], time.perf_counter() - started


def measure(run_dir: Path, seconds: float) -> dict[str, Any]:
    """The figures of one finished run, from its report."""
    report = json.loads((run_dir / "report.json").read_text())
    return {
        "seconds": round(seconds, 1),
        "student_minus_baseline_loss": report["student_minus_baseline_loss"],
        "student_minus_baseline_loss_std": report["student_minus_baseline_loss_std"],
        "bytes_per_label": report["store"]["bytes_per_label"],
        "labels": report["store"]["labels"],
    }


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quickstart", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="given to both recipes, for a trial run")
    overrides: list[str] = parser.parse_args().overrides
    if not any(map(is_text, RECIPES)):
        raise SystemExit("configs/ holds no text recipe named quickstart-*.yaml")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as runs:
        for recipe in RECIPES:
            progress(f"kd distill {recipe.name}")
            measured[recipe.stem] = measure(*distill(recipe, Path(runs), overrides))
            progress(f"{recipe.stem}: {measured[recipe.stem]}")
    text = next(measured[recipe.stem] for recipe in RECIPES if is_text(recipe))
    headline = {
        "student_minus_baseline_loss": text["student_minus_baseline_loss"],
        "seconds": round(sum(figures["seconds"] for figures in measured.values()), 1),
        "bytes_per_token": text["bytes_per_label"]["total"],
    }
    command = ["python", "-m", "tests.benchmarks.quickstart", *overrides]
    emit("quickstart", headline, command, recipes=measured)


if __name__ == "__main__":
    main()
