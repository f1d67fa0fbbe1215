"""Does it teach, and which method best? CIFAR-10, ResNet-56 to ResNet-20, one student a method and seed, equal steps.

All arms have the same initial weights, order and views (a crop of the padded image, flipped or not, `--views` of each
image), and differ in `training.losses` alone. Methods of logits learn from one label store; methods of features see
the live teacher. Weights are those of RepDistiller's and the methods' own published settings for this pair of networks;
none was tuned here. Figures are accuracies on all test images in percent, means over seeds, with standard deviations.
A second call with the same `--runs` goes on where the first one ended; `--arms` names some of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from kdcore.store import is_finished
from tests.benchmarks.harness import REPO, emit, progress

Losses = list[dict[str, Any]]
HARD: dict[str, Any] = {"type": "cross_entropy"}
SOFT: Losses = [{**HARD, "weight": 0.1}, {"type": "kl", "temperature": 4.0, "weight": 0.9}]
STAGES, POOLED = ["layer1", "layer2", "layer3"], "linear:input"
ATTENTION: dict[str, Any] = {"type": "attention_transfer", "at": STAGES, "weight": 1000.0}
CONTRAST: dict[str, Any] = {"type": "crd", "at": POOLED, "weight": 0.8}
DECOUPLED: dict[str, Any] = {"type": "dkd", "alpha": 1.0, "beta": 2.0, "temperature": 4.0, "warmup": 0.1}
STANDARDISED: Losses = [
    {**HARD, "weight": 0.1},
    {"type": "kl", "temperature": 2.0, "standardise": True, "weight": 9.0},
]
ARMS: dict[str, Losses] = {
    "alone": [HARD],
    "kd": SOFT,
    "dkd": [HARD, DECOUPLED],
    "standardised_kd": STANDARDISED,
    "attention_transfer": [HARD, ATTENTION],
    "fitnet": [HARD, {"type": "fitnet", "at": "layer2", "weight": 100.0}],
    "rkd": [HARD, {"type": "rkd", "at": POOLED}],
    "similarity_preserving": [HARD, {"type": "similarity_preserving", "at": "layer3", "weight": 3000.0}],
    "crd": [HARD, CONTRAST],
    "kd+crd": [*SOFT, CONTRAST],
    "kd+attention_transfer": [*SOFT, ATTENTION],
}
QUALITIES = ("accuracy", "loss", "ece", "agreement")


def recipe(name: str, seed: int, arguments: argparse.Namespace) -> Recipe:
    """The recipe of configs/, with the losses of one arm and one seed."""
    import yaml

    settings = yaml.safe_load((REPO / "configs" / "cifar10.yaml").read_text())
    settings |= {"name": f"{name.replace('+', '-and-')}-{seed}", "runs": str(arguments.runs)}
    settings["data"] |= {"path": str(arguments.data / "train.parquet"), "heldout": str(arguments.data / "test.parquet")}
    settings["data"]["max_samples"] = arguments.images
    settings["data"]["views"]["per_image"] = arguments.views
    settings["teacher"] |= {"path": str(arguments.teacher), "dtype": "bfloat16"}
    settings["labels"]["path"] = str(arguments.runs / "labels")
    training = settings["training"]
    del training["loss"]
    training |= {"losses": ARMS[name], "epochs": arguments.epochs, "seeds": [seed]}
    training |= {"precision": "bfloat16", "baseline": False, "log_every_steps": 100}
    # The rate follows the size of the batch, as is usual for SGD (Goyal et al. 2017).
    training["optimizer"]["learning_rate"] *= arguments.batch_size / training["batch_size"]
    training["batch_size"] = arguments.batch_size
    training["checkpoint"] = {"every_steps": 2000, "keep": 1}
    return Recipe.model_validate(settings)


def teach(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """Train and evaluate one student in this process; what it reached is in its run directory."""
    import torch

    from kdcore.evaluation.run import evaluate_run
    from kdcore.runs import begin_run, write_json
    from kdcore.training.arms import plan_arms
    from kdcore.training.run import run_arms

    torch.set_num_threads(arguments.threads)
    wanted = recipe(name, seed, arguments)
    begin_run(wanted)
    run_arms(wanted, plan_arms(wanted), lambda step: progress(f"{name}: {step}"))
    write_json(wanted.run_dir / "quality.json", evaluate_run(wanted)["models"])


def taught(job: tuple[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """The models of one arm and seed with their qualities, trained in a process of its own if they are not yet."""
    name, seed = job
    found = recipe(name, seed, arguments).run_dir / "quality.json"
    if not found.exists():
        command = [sys.executable, "-m", "tests.benchmarks.teaches_vision", *sys.argv[1:], "--one", name, str(seed)]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
        if subprocess.run(command, cwd=REPO, env=environment).returncode:
            raise SystemExit(f"arm '{name}', seed {seed} failed: what it said is above")
    models = json.loads(found.read_text())
    return {("teacher" if arm == "teacher" else "student"): model["quality"] for arm, model in models.items()}


def summary(models: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over the seeds of one arm."""
    measured: dict[str, Any] = {"teacher": round(100 * models[0]["teacher"]["accuracy"], 2)}
    for kind in QUALITIES:
        values = [(100 if kind == "accuracy" else 1) * float(model["student"][kind]) for model in models]
        measured |= {kind: round(statistics.mean(values), 4), f"{kind}_seeds": [round(value, 4) for value in values]}
        measured[f"{kind}_std"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return measured


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_vision", description=__doc__)
    shared = REPO.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared / "cifar10", help="folder of train and test Parquet")
    parser.add_argument("--teacher", type=Path, default=shared / "cifar10-teachers" / "resnet56-finetuned.safetensors")
    parser.add_argument("--runs", type=Path, default=Path("runs/teaches-vision"), help="where a second call goes on")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--images", type=int, default=None, help="of training; default: all 50,000")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="the rate grows with it")
    parser.add_argument("--views", type=int, default=5, help="labelled views of each image")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="students at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help="train this one alone, in this process")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs.resolve()
    if arguments.one:
        teach(arguments.one[0], int(arguments.one[1]), arguments)
        return
    labelled = recipe("kd", 0, arguments)
    if not is_finished(labelled.store_path):  # a machine without Ray can go on from a store that another one made
        from cluster.labelling.run import label_store

        label_store(labelled, on_note=progress)
    jobs = [(name, seed) for seed in range(arguments.seeds) for name in arguments.arms]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        models = dict(zip(jobs, pool.map(lambda job: taught(job, arguments), jobs), strict=True))
    measured = {name: summary([models[name, seed] for seed in range(arguments.seeds)]) for name in arguments.arms}
    for name, each in measured.items():
        progress(f"{name}: {each['accuracy']} +- {each['accuracy_std']}")
    headline = {name: each["accuracy"] for name, each in measured.items()}
    command = ["python", "-m", "tests.benchmarks.teaches_vision", *sys.argv[1:]]
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    emit("teaches_vision", headline, command, arms=measured, losses=ARMS, asked=asked)


if __name__ == "__main__":
    main()
