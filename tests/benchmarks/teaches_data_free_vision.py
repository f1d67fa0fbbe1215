"""How well does a student do without data, by method and minutes? On digits, MNIST or CIFAR-10.

Each method takes the place of `synthesis` in configs/SET-data-free.yaml; `real` is the same recipe without it: the
student learns from real images, of the same teacher. All learn for equal steps. Figures are accuracies on real test
images in percent, means over seeds, with standard deviations; minutes are those of the synthesis alone. A second call
with the same `--runs` goes on where the first one ended.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.benchmarks.harness import REPO, emit, progress

Settings = dict[str, Any]
GAME: Settings = {"batch_size": 128, "width": 16, "precision": "bfloat16", "batch_norm": 0, "balance": 5}
INVERTED: Settings = {"batch_size": 250, "precision": "bfloat16", "batch_norm": 0}
# What the recipe says holds where a set does not name a method; a teacher without BatchNorm has no statistics to match.
OF_BARE: dict[str, Settings] = {
    "dafl": {**GAME, "type": "dafl", "steps": 500},
    "zskt": {**GAME, "type": "zskt", "steps": 500, "student_steps": 5, "balance": 0},
    "impressions": {**INVERTED, "type": "impressions", "steps": 100, "learning_rate": 0.05},
    "cmi": {**INVERTED, "type": "cmi", "steps": 50, "width": 16},
    "fast_meta": {**INVERTED, "type": "fast_meta", "steps": 10, "width": 16, "adversarial": 1},
    "nayer": {**INVERTED, "type": "nayer", "steps": 20, "width": 16, "adversarial": 1},
    "transfer": {"type": "transfer", "candidates": 4},
}
OF_NORMED: dict[str, Settings] = {
    "deep_inversion": {
        "type": "deep_inversion",
        "steps": 100,
        "batch_size": 200,
        "flip": True,
        "precision": "bfloat16",
    },
    "adaptive_inversion": {
        "type": "deep_inversion",
        "steps": 100,
        "batch_size": 200,
        "flip": True,
        "adversarial": 1,
        "student_steps": 20,
    },
    "dafl": {"type": "dafl", "steps": 1000, "batch_size": 200},
    "zskt": {"type": "zskt", "steps": 1000, "batch_size": 200, "student_steps": 2},
    "dfq": {"type": "dfq", "steps": 600, "batch_size": 128, "precision": "bfloat16"},
    "cmi": {"type": "cmi", "steps": 50, "batch_size": 200, "flip": True},
    "nayer": {"type": "nayer", "steps": 20, "batch_size": 200, "adversarial": 1, "flip": True, "student_steps": 20},
    "transfer": {"type": "transfer", "candidates": 4},
}
METHODS: dict[str, dict[str, Settings]] = {"digits": OF_BARE, "mnist": OF_BARE, "cifar10": OF_NORMED}


def methods_of(which: str) -> list[str]:
    """Every method of a set: `real`, that of the recipe, and the others."""
    return ["real", _tree(which)["synthesis"]["type"], *METHODS[which]]


def _tree(which: str) -> Settings:
    return yaml.safe_load((REPO / "configs" / f"{which}-data-free.yaml").read_text())


def recipe(name: str, arguments: argparse.Namespace) -> Path:
    """The recipe of one method, written into the folder of runs."""
    tree, which = _tree(arguments.set), arguments.set
    tree |= {"name": name.replace("_", "-"), "runs": str(arguments.runs)}
    shared: Path = arguments.data
    if which != "digits":
        tree["data"] |= {"path": str(shared / which / "train.parquet"), "heldout": str(shared / which / "test.parquet")}
    if which == "cifar10":
        tree["teacher"]["path"] = str(shared / "cifar10-teachers" / "resnet56-finetuned.safetensors")
    elif name != "real":
        # The one that `real` trained: all students have the same teacher.
        del tree["teacher"]["fit"]
        tree["teacher"]["path"] = str(arguments.runs / "real" / "teacher")
    samples = arguments.samples or tree["synthesis"]["samples"]
    units = {"samples": samples, "unit_samples": min(samples, tree["synthesis"]["unit_samples"])}
    if name == "real":
        del tree["synthesis"]
    elif name in METHODS[which]:
        tree["synthesis"] = {**METHODS[which][name], **units}
    else:
        tree["synthesis"] |= units
    tree["cluster"] |= {"replicas": arguments.replicas or tree["cluster"]["replicas"]}
    training = tree["training"]
    training |= {"seeds": list(range(arguments.seeds))}
    if arguments.steps is not None:
        training |= {"steps": arguments.steps}
        training.pop("epochs", None)
    path = arguments.runs / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def taught(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one method end to end, or go on with it; its figures, from its report."""
    path, run_dir = recipe(name, arguments), arguments.runs / name.replace("_", "-")
    if not (run_dir / "report.json").exists():
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "jobs.distill", str(path), *arguments.override]
        subprocess.run(command, check=True, cwd=REPO, env=environment, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    report = json.loads((run_dir / "report.json").read_text())
    accuracies = [100 * value for value in report["roles"]["student"]["accuracy"]["values"]]
    minutes = report["stages"].get("synthesis", {"seconds": 0})["seconds"] / 60
    made = report.get("synthesis") or [{}]
    return {
        "accuracy": round(statistics.mean(accuracies), 2),
        "accuracy_std": round(statistics.stdev(accuracies), 2) if len(accuracies) > 1 else None,
        "accuracy_seeds": [round(value, 2) for value in accuracies],
        "teacher": round(100 * report["roles"]["teacher"]["accuracy"]["mean"], 2),
        "minutes": round(minutes, 1),
        "made": made[-1],
    }


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_data_free_vision", description=__doc__)
    parser.add_argument("--set", choices=list(METHODS), default="mnist")
    parser.add_argument("--data", type=Path, default=REPO.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=None, help="where a second call goes on")
    parser.add_argument("--methods", nargs="+", default=None, help="default: all of the set")
    parser.add_argument("--samples", type=int, default=None, help="images made; default: the recipe's")
    parser.add_argument("--steps", type=int, default=None, help="of each student; default: as the recipe says")
    parser.add_argument(
        "--replicas", type=int, default=None, help="that make images, a core each; default: the recipe's"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE", help="of every recipe")
    arguments = parser.parse_args()
    arguments.runs = (arguments.runs or Path("runs/teaches-data-free") / arguments.set).resolve()
    arguments.data = arguments.data.resolve()
    measured: dict[str, dict[str, Any]] = {}
    for name in arguments.methods or methods_of(arguments.set):
        measured[name] = taught(name, arguments)
        progress(f"{name}: {measured[name]['accuracy']} after {measured[name]['minutes']} minutes of synthesis")
    headline = {name: each["accuracy"] for name, each in measured.items()}
    headline |= {f"{name}_minutes": each["minutes"] for name, each in measured.items() if name != "real"}
    command = ["python", "-m", "tests.benchmarks.teaches_data_free_vision", *sys.argv[1:]]
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    emit("teaches_data_free_vision", headline, command, methods=measured, settings=METHODS[arguments.set], asked=asked)


if __name__ == "__main__":
    main()
