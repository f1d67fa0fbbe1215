"""Does it teach? One student from each kind of label, at equal steps, on real text; held-out loss by arm.

A code language model teaches a student of a tenth of its size on modules of the standard library: from hard labels
alone, from the top 12 classes with their tail, from 50 random draws, from `threshold` at the bytes of those draws and
at a third of them, and from the whole distribution. Every arm has the same initial weights, batches and steps; losses
are nats a token on held-out modules, means over the seeds with their standard deviation.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from tests.benchmarks.harness import REPO, emit, progress

QUALITIES = ("loss", "ece", "agreement")


def recipe(runs: Path, name: str, codec: dict[str, Any], arguments: argparse.Namespace) -> Recipe:
    """The quickstart's teacher, student and corpus, for longer, with labels of one kind."""
    import yaml

    settings = yaml.safe_load((REPO / "configs" / "quickstart-text.yaml").read_text())
    settings["teacher"]["path"] = str(REPO / settings["teacher"]["path"])
    settings |= {"name": name, "runs": str(runs), "evaluation": {"max_tokens": arguments.heldout}}
    settings["data"]["max_samples"] = arguments.documents
    settings["labels"] = {"codec": codec, "unit_bytes": 256_000}
    settings["cluster"] = {"replicas": arguments.replicas}
    settings["training"] |= {
        "steps": arguments.steps,
        "engine": {"type": "torch"},
        "seeds": list(range(arguments.seeds)),
        "baseline": name == "topk12",  # one is enough: it sees no labels
        "checkpoint": {"every_steps": 100, "keep": 1},
        "log_every_steps": 50,
    }
    return Recipe.model_validate(settings)


def teach(wanted: Recipe) -> dict[str, Any]:
    """Label, train the arms one after the other in this process, evaluate."""
    from cluster.labelling.run import label_store
    from kdcore.evaluation.run import evaluate_run
    from kdcore.runs import begin_run
    from kdcore.training.arms import plan_arms
    from kdcore.training.run import run_arms

    begin_run(wanted)
    label_store(wanted, on_note=progress)
    run_arms(wanted, plan_arms(wanted), lambda step: progress(f"{wanted.name}: {step}"))
    return evaluate_run(wanted)


def arm(found: dict[str, Any], role: str) -> dict[str, float]:
    """Mean and standard deviation over the seeds of one role's qualities."""
    seeds = [model["quality"] for name, model in found["models"].items() if name.startswith(role)]
    values = {name: [float(quality[name]) for quality in seeds] for name in QUALITIES if name in seeds[0]}
    means = {name: round(statistics.mean(each), 4) for name, each in values.items()}
    spread = {f"{name}_std": round(statistics.stdev(each), 4) for name, each in values.items() if len(each) > 1}
    return means | spread


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_text", description=__doc__)
    parser.add_argument("--documents", type=int, default=120, help="modules of the standard library")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps of 16 sequences of 128 tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heldout", type=int, default=40_000, help="tokens")
    parser.add_argument("--replicas", type=int, default=1)
    arguments = parser.parse_args()
    arms: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        runs = Path(folder)

        def measure(name: str, codec: dict[str, Any]) -> dict[str, float]:
            found = teach(recipe(runs, name, codec, arguments))
            if name == "topk12":
                arms["teacher"], arms["hard"] = arm(found, "teacher"), arm(found, "baseline")
            columns: dict[str, float] = found["store"]["bytes_per_label"]
            arms[name] = {**arm(found, "student"), "bytes_per_label": round(columns["total"], 2)}
            progress(f"{name}: {arms[name]}")
            return columns

        measure("topk12", {"type": "topk", "k": 12})
        columns = measure("sampled50", {"type": "sampled", "draws": 50})
        size = columns["codes"] + columns["block_words"]
        measure("threshold", {"type": "threshold", "budget_bytes": size})
        measure("threshold-third", {"type": "threshold", "budget_bytes": size / 3})
        measure("dense", {"type": "dense"})
    headline = {name: quality["loss"] for name, quality in arms.items()}
    command = ["python", "-m", "tests.benchmarks.teaches_text", *sys.argv[1:]]
    emit("teaches_text", headline, command, arms=arms, **vars(arguments))


if __name__ == "__main__":
    main()
