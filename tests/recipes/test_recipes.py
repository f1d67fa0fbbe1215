"""Every recipe of configs/ runs as a person would run it, cut down to two steps of one seed.

The overrides shrink a recipe, they never change what it does: same data family, teacher, codec and engine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdcore.config.load import load_recipe
from kdcore.training.needs import check_losses
from tests.recipes.material import MATERIAL

CONFIGS = sorted((Path(__file__).resolve().parent.parent.parent / "configs").glob("*.yaml"))
SECONDS = 400


def tiny_training(prefix: str, recipe: dict) -> list[str]:
    """Two optimizer steps, through `epochs` or `steps` alike, with a checkpoint and a log line in them."""
    training = recipe
    for key in prefix.split("."):
        training = training.get(key) or {}
    if not training:
        return []
    overrides = {"epochs": "null", "steps": 2, "batch_size": 4, "log_every_steps": 1, "checkpoint.every_steps": 1}
    if "sequence_length" in training or recipe["data"]["type"] in ("text", "python_stdlib"):
        overrides |= {"sequence_length": 32, "long_documents": "cut"}
    if "micro_batch_size" in training:
        overrides["micro_batch_size"] = 1
    if "optimizer" in training and "warmup_steps" in training["optimizer"]:
        overrides["optimizer.warmup_steps"] = 1
    if prefix == "training":
        overrides["seeds"] = "[0]"
    return [f"{prefix}.{key}={value}" for key, value in overrides.items()]


def tiny(recipe: dict, runs: Path, material: list[str]) -> list[str]:
    """Overrides that cut `recipe` to a few samples and steps, into the folder `runs`, on `material` of its own."""
    samples = 4 if recipe["data"]["type"] in ("text", "python_stdlib") else 64
    overrides = [
        f"runs={runs}",
        f"data.max_samples={samples}",
        "evaluation.max_tokens=256",
        "evaluation.max_images=32",
        "evaluation.batch_size=4",
        "cluster.replicas=1",
        f"cluster.workers={min(2, (recipe.get('cluster') or {}).get('workers', 1))}",
    ]
    overrides += tiny_training("training", recipe)
    if (recipe.get("teacher") or {}).get("fit"):
        overrides += tiny_training("teacher.fit", recipe)
    if recipe.get("synthesis"):
        overrides += ["synthesis.samples=16", "synthesis.unit_samples=8"]
        if "steps" in recipe["synthesis"]:
            overrides += ["synthesis.steps=2", "synthesis.batch_size=4", "synthesis.student_batch_size=4"]
        if "student_steps" in recipe["synthesis"]:
            overrides += ["synthesis.student_steps=2"]
        if recipe["synthesis"]["type"] in ("fast_meta", "nayer"):
            overrides += ["synthesis.warmup=1"]
    return [*overrides, *material]


def job(recipe: dict) -> str:
    """`distill` for a recipe with a teacher and a student; `train` for one that trains on hard labels alone."""
    return "distill" if recipe.get("teacher") and recipe.get("student") else "train"


def run(path: Path, recipe: dict, runs: Path, material: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"jobs.{job(recipe)}", str(path), *tiny(recipe, runs, material)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=path.parent.parent,
        env=environment,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_there_are_recipes() -> None:
    assert CONFIGS, "configs/ holds no recipe"


@pytest.mark.timeout(2 * SECONDS + 30)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_recipe_runs(path: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    recipe = yaml.safe_load(path.read_text())
    made = MATERIAL[path.stem](tmp_path_factory.mktemp("material")) if path.stem in MATERIAL else []
    done = run(path, recipe, tmp_path, made)
    assert done.returncode == 0, f"{' '.join(done.args)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    (run_dir,) = [entry for entry in tmp_path.iterdir() if entry.is_dir()]
    results = sorted(run_dir.glob("arms/*/result.json"))
    assert results, f"no arm finished in {run_dir}"
    lines = [json.loads(line) for line in (results[0].parent / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines][-1] == 2
    assert all(line["loss"] == line["loss"] for line in lines), "a loss is NaN"
    if job(recipe) == "distill":
        labelled = check_losses(load_recipe(path)) is None  # else the teacher runs beside the student
        assert (run_dir / "labels" / "manifest.json").is_file() == labelled
        assert json.loads((run_dir / "report.json").read_text())
        assert (run_dir / "report.md").read_text().startswith("#")
        again = run(path, recipe, tmp_path, made)
        assert again.returncode == 0, again.stderr[-4000:]
        assert "finished" in (again.stdout + again.stderr)
