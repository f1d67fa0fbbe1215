"""What does a second teacher buy, and which rule makes the most of two? MNIST, a few thousand images, equal steps.

Two teachers of different kinds, such as LeNet-5 and a multilayer perceptron, are trained on `--teacher-images`, the
student's few among them, and label those few once. Every student is the same small perceptron with the same weights,
order and steps; arms differ in the labels alone: none, one teacher's, the other's, or both by a rule of `labels.mix` or
a loss of several teachers (`apart`). Figures are accuracies on all test images, in percent, means over seeds, with
standard deviations.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from kdcore.store import is_finished
from tests.benchmarks.harness import REPO, emit, progress
from tests.benchmarks.teaches_mnist import part_of

TEACHERS: dict[str, dict[str, Any]] = {
    "lenet": {"source": "lenet"},
    "mlp": {"source": "mlp", "kwargs": {"hidden": [600, 600], "dropout_input": 0.2, "dropout": 0.5}},
    "convnet": {"source": "convnet", "kwargs": {"width": 16, "depth": 2}},
}
RATES = {"lenet": 1e-3, "mlp": 1e-3, "convnet": 1e-2}
HARD: dict[str, Any] = {"type": "cross_entropy", "weight": 0.1}
SOFT: dict[str, Any] = {"type": "kl", "temperature": 4.0, "weight": 0.9}
RULES = ("arithmetic", "geometric", "entropy", "agreement", "min_ce", "max_confidence", "random")
APART: dict[str, dict[str, Any]] = {
    "ae_kd": {"type": "ae_kd", "temperature": 4.0, "weight": 0.9},
    "amtml": {"type": "amtml", "temperature": 4.0, "weight": 0.9, "at": "head:input"},
}


def first(images: int, arguments: argparse.Namespace) -> Path:
    """A file of the first training images, made once."""
    arguments.runs.mkdir(parents=True, exist_ok=True)
    target = arguments.runs / f"first-{images}.parquet"
    return part_of(arguments.data / "train.parquet", target, lambda number, _: number < images)


def recipe(name: str, seed: int, arguments: argparse.Namespace, **parts: Any) -> Recipe:
    """One run: `parts` are its teacher and images, or its labels and losses."""
    training = {
        "epochs": arguments.epochs, "batch_size": 64, "optimizer": {"learning_rate": 3e-3}, "seeds": [seed],
        "baseline": False, "log_every_steps": 1000, **parts.pop("training", {}),
    }  # fmt: skip
    return Recipe.model_validate(
        {
            "name": f"{name}-{seed}",
            "runs": str(arguments.runs),
            "data": {
                "type": "image_parquet",
                "path": str(first(parts.pop("images", arguments.images), arguments)),
                "heldout": str(arguments.data / "test.parquet"),
                **{"size": 28, "channels": 1, "mean": [0.0], "std": [1.0]},
            },
            "student": {"type": "image_classifier", "source": "mlp", "kwargs": {"hidden": [arguments.width]}},
            "training": training,
            "evaluation": {"batch_size": 500},
            "cluster": {"replicas": 1, "workers": 1},
            **parts,
        }
    )


def labelled(name: str, arguments: argparse.Namespace) -> Recipe:
    """The recipe of a teacher and its store of dense labels, both made unless they are there."""
    from cluster.labelling.run import label_store
    from kdcore.runs import begin_run
    from kdcore.training.arms import teacher_arm
    from kdcore.training.run import run_arms

    fit = {"epochs": arguments.teacher_epochs, "batch_size": 64, "optimizer": {"learning_rate": RATES[name]}}
    teacher = {"type": "image_classifier", **TEACHERS[name], "fit": {**fit, "log_every_steps": 1000}}
    fitting = recipe(f"teacher-{name}", 0, arguments, teacher=teacher, images=arguments.teacher_images)
    if not (fitting.run_dir / "teacher" / "result.json").exists():
        begin_run(fitting)
        run_arms(fitting, [teacher_arm(fitting)], lambda step: progress(f"{name}: {step}"))
    fitted = {"type": "image_classifier", "path": str(fitting.run_dir / "teacher")}
    found = recipe(f"of-{name}", 0, arguments, teacher=fitted, labels={"codec": {"type": "dense"}})
    if not is_finished(found.store_path):
        label_store(found, on_note=progress)
    return found


def parts_of(name: str, stores: dict[str, str]) -> dict[str, Any]:
    """The labels and losses of an arm."""
    if name == "alone":
        return {"training": {"losses": [{"type": "cross_entropy"}]}}
    rule = name if name in RULES else "apart"
    losses = [HARD, APART.get(name, SOFT)]
    if name in stores:  # one of two stores, so that all arms read as much
        losses[1] = {**SOFT, "teacher": list(stores).index(name)}
    mix = {"rule": rule, "stores": [{"path": path} for path in stores.values()]}
    return {"labels": {"mix": mix}, "training": {"losses": losses}}


def taught(name: str, seed: int, stores: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The qualities of the student of an arm and seed, trained in this process unless it is there."""
    from kdcore.evaluation.run import evaluate_run
    from kdcore.runs import begin_run
    from kdcore.training.arms import plan_arms
    from kdcore.training.run import run_arms

    wanted = recipe(name.replace("_", "-"), seed, arguments, **parts_of(name, stores))
    begin_run(wanted)
    run_arms(wanted, plan_arms(wanted), lambda step: None)
    return evaluate_run(wanted)["models"][f"student-seed{seed}"]["quality"]


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and standard deviations over the seeds of one arm."""
    measured: dict[str, Any] = {}
    for kind, scale in (("accuracy", 100), ("loss", 1), ("ece", 1)):
        values = [scale * float(each[kind]) for each in found]
        measured |= {kind: round(statistics.mean(values), 4), f"{kind}_seeds": [round(value, 4) for value in values]}
        measured[f"{kind}_std"] = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return measured


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_many", description=__doc__)
    parser.add_argument("--data", type=Path, default=REPO.parent / "shared" / "data" / "mnist")
    parser.add_argument("--runs", type=Path, default=Path("runs/teaches-many"), help="where a second call goes on")
    parser.add_argument("--teachers", nargs=2, choices=list(TEACHERS), default=["lenet", "mlp"])
    parser.add_argument("--arms", nargs="+", default=None, help="default: all")
    parser.add_argument("--images", type=int, default=1000, help="that students learn from")
    parser.add_argument("--teacher-images", type=int, default=30_000, help="that teachers learn from")
    parser.add_argument("--width", type=int, default=64, help="of the student's hidden layer")
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--teacher-epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.runs, arguments.data = arguments.runs.resolve(), arguments.data.resolve()
    stores = {name: labelled(name, arguments).store_path for name in arguments.teachers}
    measured: dict[str, dict[str, Any]] = {}
    for name in arguments.arms or ("alone", *stores, *RULES, *APART):
        measured[name] = summary([taught(name, seed, stores, arguments) for seed in range(arguments.seeds)])
        progress(f"{name}: {measured[name]['accuracy']} +- {measured[name]['accuracy_std']}")
    headline = {name: each["accuracy"] for name, each in measured.items()}
    command = ["python", "-m", "tests.benchmarks.teaches_many", *sys.argv[1:]]
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    emit("teaches_many", headline, command, arms=measured, asked=asked)


if __name__ == "__main__":
    main()
