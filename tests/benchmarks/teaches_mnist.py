"""The first table of the field, measured again: MNIST of Hinton, Vinyals and Dean 2015 (arXiv:1503.02531, section 3).

A teacher of two layers of 1,200 units, with dropout, max-norm and jittered input, labels MNIST; students of two layers
of 800 units, without any of it, learn from hard labels alone, from the teacher at T = 20, and from the teacher without
any image of a 3, of which they are asked all the same. Figures are errors on the 10,000 test images, mean and standard
deviation over seeds. `--search` picks rate and weight of hard labels on the last 10,000 training images instead, with a
teacher that has not seen those. A second call with the same `--runs` goes on where the first one ended.
"""

import argparse
import copy
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcore.config import Recipe
from kdcore.store import is_finished
from tests.benchmarks.harness import REPO, emit, progress
from tests.benchmarks.mnist_teacher import train_teacher

RECIPE = REPO / "configs" / "mnist-hinton.yaml"
HELD_BACK = 10_000  # images of the training set on which settings are chosen
UNSEEN, RAISED = 3, 3.5  # the class left out, and what the paper adds to its bias
PAPER = {"teacher": 67, "alone": 146, "distilled": 74, "without_3": 206, "without_3_raised": 109}
# Hard labels are learnt best by this; soft ones, whose fit decides, by the optimizer of the recipe.
ALONE = {"type": "sgd", "momentum": 0.9, "nesterov": True, "schedule": "linear"}
# Chosen on held back training images.
RATES = {"alone": 0.15, "distilled": 3e-3}
HARD_WEIGHT = 0.0


class Images:
    """All images of a Parquet file: `pixels` float32 [N, 28, 28] in 0 .. 1 and `classes` int64 [N]."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        from kdcore.config.data import ImageParquetData
        from kdcore.data.images import ImageDecoder

        data = ImageParquetData(path=str(path), size=28, channels=1, mean=(0.0,), std=(1.0,))
        rows = pq.read_table(path).to_pylist()
        decode = ImageDecoder(data).decode
        self.pixels = np.concatenate([decode(row["image"]["bytes"]) for row in rows])
        self.classes = np.array([row["label"] for row in rows])

    def wrong(self, model: nn.Module) -> np.ndarray:
        """Whether each image is classified wrongly, bool [N]."""
        device = next(model.parameters()).device
        with torch.inference_mode():
            parts = torch.from_numpy(self.pixels)[:, None].split(1000)
            found = torch.cat([model.eval()(part.to(device)).argmax(-1).cpu() for part in parts]).numpy()
        return found != self.classes


def part_of(source: Path, target: Path, keep: Any) -> Path:
    """A file with the rows for which `keep` (number, class) is true, made once."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not target.exists():
        table = pq.read_table(source)
        mask = [bool(keep(number, label)) for number, label in enumerate(table.column("label").to_pylist())]
        aside = target.with_suffix(".part")
        pq.write_table(table.filter(pa.array(mask)), aside)  # one group of rows: they are read in any order
        aside.replace(target)
    return target


def recipe(runs: Path, name: str, train: Path, teacher: Path | None, arguments: Any, **changes: Any) -> Recipe:
    """The recipe of configs/ with this training set and teacher; `changes`: `rate` and `hard_weight`."""
    import yaml

    settings = yaml.safe_load(RECIPE.read_text())
    settings |= {"name": name, "runs": str(runs)}
    settings["labels"]["path"] = str(runs / "labels")  # those who learn from some of the images find theirs by key
    settings["data"] |= {"path": str(train), "heldout": str(arguments.data / "test.parquet")}
    settings["teacher"] = None if teacher is None else {"type": "image_classifier", "path": str(teacher)}
    training = settings["training"]
    training |= {"epochs": arguments.epochs, "seeds": list(range(arguments.seeds)), "baseline": False}
    training["optimizer"] = {**(ALONE if teacher is None else training["optimizer"]), "learning_rate": changes["rate"]}
    training["loss"] = {} if teacher is None else {"temperature": 20.0, "hard_weight": changes["hard_weight"]}
    return Recipe.model_validate(settings)


def label(wanted: Recipe) -> None:
    """The store of every arm. A machine without Ray can go on from a store that another one made."""
    if not is_finished(wanted.store_path):
        from cluster.labelling.run import label_store

        label_store(wanted, on_note=progress)


def teach(wanted: Recipe, jobs: int) -> list[nn.Module]:
    """Train the students, `jobs` at a time, each in a process of its own; the exported networks in order of seeds."""
    from kdcore.runs import begin_run
    from kdcore.students.export import load_student
    from kdcore.training.arms import plan_arms

    begin_run(wanted)
    command = [sys.executable, "-m", "tests.benchmarks.teaches_mnist", "--one", str(wanted.run_dir)]
    arms = plan_arms(wanted)
    with ThreadPoolExecutor(jobs) as pool:
        ends = list(pool.map(lambda arm: subprocess.run([*command, arm.name], cwd=REPO).returncode, arms))
    if any(ends):
        raise SystemExit(f"a student of '{wanted.name}' failed: what it said is above")
    return [load_student(arm.export_directory(wanted)) for arm in arms]


def teach_one(run_dir: str, name: str) -> None:
    """Train one student of a run in this process."""
    from kdcore.config.load import load_recipe
    from kdcore.training.arms import plan_arms
    from kdcore.training.run import run_arms

    torch.set_num_threads(1)
    wanted = load_recipe(Path(run_dir) / "config.yaml")
    chosen = [arm for arm in plan_arms(wanted) if arm.name == name]
    run_arms(wanted, chosen, lambda step: progress(f"{wanted.name}: {step}"))


def spread(values: list[int]) -> dict[str, Any]:
    """Mean, standard deviation and all values."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 1), "std": round(deviation, 1), "errors": values}


def errors(students: list[nn.Module], images: Images) -> dict[str, Any]:
    """Errors over the students, and how many of those are on the unseen class."""
    wrong = [images.wrong(student) for student in students]
    of_unseen = images.classes == UNSEEN
    return {
        **spread([int(each.sum()) for each in wrong]),
        "on_unseen": spread([int(each[of_unseen].sum()) for each in wrong]),
    }


def raised(student: nn.Module, by: float) -> nn.Module:
    """A copy whose bias of the unseen class is higher."""
    other = copy.deepcopy(student)
    with torch.no_grad():
        other.get_parameter("head.bias")[UNSEEN] += by
    return other


def best_bias(students: list[nn.Module], images: Images) -> float:
    """The one raise, in steps of a half, with the fewest errors of all students."""
    steps = [number / 2 for number in range(21)]
    return min(steps, key=lambda by: sum(images.wrong(raised(student, by)).sum() for student in students))


def make_teacher(runs: Path, train: Images, watched: Images, epochs: int) -> Path:
    """The teacher's directory; its errors on `watched` are told as it learns, and decide nothing."""

    def say(epoch: int, model: nn.Module) -> None:
        progress(f"teacher: epoch {epoch} of {epochs}, {int(watched.wrong(model).sum())} errors")

    train_teacher(runs / "teacher", train.pixels, train.classes, epochs, say)
    return runs / "teacher"


def search(arguments: argparse.Namespace) -> None:
    """Errors on the images that were held back, for each setting that was tried; one seed."""
    runs, source = arguments.runs / "search", arguments.data / "train.parquet"
    runs.mkdir(parents=True, exist_ok=True)
    count = len(Images(source).classes) - HELD_BACK
    first = part_of(source, runs / "first.parquet", lambda number, _: number < count)
    held_back = Images(part_of(source, runs / "held-back.parquet", lambda number, _: number >= count))
    teacher = make_teacher(runs, Images(first), held_back, arguments.teacher_epochs)
    label(recipe(runs, "labelling", first, teacher, arguments, rate=RATES["distilled"], hard_weight=HARD_WEIGHT))
    found: dict[str, dict[str, Any]] = {}
    tried = [(None, rate) for rate in arguments.rates]
    tried += [(weight, rate) for weight in arguments.hard_weights for rate in arguments.soft_rates]
    for weight, rate in tried:
        name = f"alone-{rate:g}" if weight is None else f"hard{weight:g}-{rate:g}"
        changes = {"rate": rate, "hard_weight": weight}
        wanted = recipe(runs, name, first, None if weight is None else teacher, arguments, **changes)
        found[name] = errors(teach(wanted, arguments.jobs), held_back)
        progress(f"{name}: {found[name]}")
    report(arguments, {name: each["mean"] for name, each in found.items()}, arms=found)


def table(arguments: argparse.Namespace) -> None:
    """The paper's table."""
    runs, source = arguments.runs, arguments.data / "train.parquet"
    runs.mkdir(parents=True, exist_ok=True)
    images, test = Images(source), Images(arguments.data / "test.parquet")
    teacher = make_teacher(runs, images, test, arguments.teacher_epochs)
    from kdcore.models.image import load_image_model

    arms = {"teacher": errors([load_image_model(teacher)], test)}
    changes = {"rate": RATES["distilled"], "hard_weight": HARD_WEIGHT}
    rest = part_of(source, runs / "without-3.parquet", lambda _, label: label != UNSEEN)
    wanted = {
        "alone": recipe(runs, "alone", source, None, arguments, rate=RATES["alone"]),
        "distilled": recipe(runs, "distilled", source, teacher, arguments, **changes),
        "without_3": recipe(runs, "without-3", rest, teacher, arguments, **changes),
    }
    label(wanted["distilled"])
    students = {name: teach(each, arguments.jobs) for name, each in wanted.items()}
    arms |= {name: errors(each, test) for name, each in students.items()}
    unseen = students["without_3"]
    arms["without_3_raised"] = errors([raised(student, RAISED) for student in unseen], test)
    best = best_bias(unseen, test)
    arms["without_3_best"] = {"bias": best, **errors([raised(student, best) for student in unseen], test)}
    for name, each in arms.items():
        progress(f"{name}: {each}")
    report(arguments, {name: each["mean"] for name, each in arms.items()}, arms=arms, paper=PAPER)


def report(arguments: argparse.Namespace, headline: dict[str, float], **details: Any) -> None:
    """The JSON line."""
    command = ["python", "-m", "tests.benchmarks.teaches_mnist", *sys.argv[1:]]
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    emit("teaches_mnist", headline, command, **details, asked=asked)


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_mnist", description=__doc__)
    default = REPO.parent / "shared" / "data" / "mnist"
    parser.add_argument("--data", type=Path, default=default, help="folder of train.parquet and test.parquet")
    parser.add_argument("--runs", type=Path, default=Path("runs/teaches-mnist"), help="where a second call goes on")
    parser.add_argument("--teacher-epochs", type=int, default=65)
    parser.add_argument("--epochs", type=int, default=20, help="of the students")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--search", action="store_true", help="choose settings on held back training images")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.15], help="of the search, alone")
    parser.add_argument("--soft-rates", type=float, nargs="+", default=[1e-3, 3e-3], help="of the search, taught")
    parser.add_argument("--hard-weights", type=float, nargs="+", default=[0.0, 0.1], help="of the search")
    parser.add_argument("--jobs", type=int, default=2, help="students at a time")
    parser.add_argument("--one", nargs=2, metavar=("RUN", "NAME"), help="train this student of a run, in this process")
    arguments = parser.parse_args()
    if arguments.one:
        teach_one(*arguments.one)
        return
    (search if arguments.search else table)(arguments)


if __name__ == "__main__":
    main()
