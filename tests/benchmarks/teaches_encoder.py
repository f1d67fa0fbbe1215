"""Does an encoder teach? configs/encoder-text.yaml, and the other methods that its head names, at equal steps.

Held-out accuracy, loss in nats and agreement with the teacher: means over the seeds with their standard deviation. The
teacher is trained once, and every arm of a seed has the same initial weights, batches and steps.
"""

import argparse
import re
import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from tests.benchmarks.harness import REPO, emit, progress

CONFIG = REPO / "configs" / "encoder-text.yaml"
TAUGHT = ("teacher.fit=null", "teacher.architecture=null", "teacher.tokenizer=null")
QUALITIES = ("accuracy", "loss", "agreement")


def methods() -> dict[str, list[str]]:
    """Overrides of each method, as the head of the recipe has them."""
    lines = re.findall(rf"^# (\w+): kd distill configs/{CONFIG.name}(.*)$", CONFIG.read_text(), re.MULTILINE)
    return {name: shlex.split(line) for name, line in lines}


def teach(wanted: Recipe) -> dict[str, Any]:
    """Train the teacher where it is asked for, label, train the arms one after the other in this process, evaluate."""
    from cluster.labelling.run import label_store
    from kdcore.evaluation.run import evaluate_run
    from kdcore.runs import begin_run
    from kdcore.training.arms import plan_arms, teacher_arm
    from kdcore.training.needs import check_losses
    from kdcore.training.run import run_arms
    from tests.support.labelling_runs import in_process

    def tell(step: object) -> None:
        progress(f"{wanted.name}: {step}")

    begin_run(wanted)
    if wanted.fit is not None:
        run_arms(wanted, [teacher_arm(wanted)], tell)
    if check_losses(wanted) is None:
        label_store(wanted, progress, in_process)
    run_arms(wanted, plan_arms(wanted), tell)
    return evaluate_run(wanted)


def spread(found: dict[str, Any], role: str) -> dict[str, float]:
    """Mean and standard deviation over the seeds of one role's qualities."""
    seeds = [model["quality"] for name, model in found["models"].items() if name.startswith(role)]
    values = {name: [float(quality[name]) for quality in seeds] for name in QUALITIES if name in seeds[0]}
    means = {name: round(statistics.mean(each), 4) for name, each in values.items()}
    return means | {f"{name}_std": round(statistics.stdev(each), 4) for name, each in values.items() if len(each) > 1}


def main() -> None:
    """Measure, and print the JSON line."""
    from kdcore.config.load import load_recipe

    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_encoder", description=__doc__)
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder, and go on with those that are there")
    parser.add_argument("overrides", nargs="*", help="settings of all methods, such as training.steps=20")
    arguments = parser.parse_args()
    arms: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        runs, shared = arguments.runs or Path(folder), list[str]()
        for name, overrides in methods().items():
            given = [*overrides, f"runs={runs}", *shared, *arguments.overrides]
            recipe = load_recipe(CONFIG, given)
            found = teach(recipe)
            if not shared:
                shared = [f"teacher.path={recipe.run_dir / 'teacher'}", *TAUGHT, "training.baseline=false"]
                arms |= {"teacher": spread(found, "teacher"), "alone": spread(found, "baseline")}
                progress(str(arms))
            arms[name] = spread(found, "student")
            progress(f"{name}: {arms[name]}")
    headline = {name: quality["accuracy"] for name, quality in arms.items()}
    emit("teaches_encoder", headline, ["python", "-m", "tests.benchmarks.teaches_encoder", *sys.argv[1:]], arms=arms)


if __name__ == "__main__":
    main()
