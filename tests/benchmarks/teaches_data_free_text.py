"""Does it teach without data? A story teacher writes what a student of half its size learns from; loss on real stories.

Four ways to train the same student, at equal steps of equal tokens: on the real training stories without a teacher, on
them with the teacher's labels, and on two sets that the teacher wrote and labelled, one about as many tokens as the
real stories are and one so large that no text is seen twice. Losses are nats a token on the real stories of
tinystories/valid.txt, means over the seeds with their standard deviation.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from tests.benchmarks.harness import REPO, emit, progress
from tests.benchmarks.teaches_text import arm

SHARED = REPO.parent / "shared" / "data"


def write_stories(folder: Path) -> None:
    """The real stories, one a line, as train.jsonl and valid.jsonl."""
    for name in ("train", "valid"):
        stories = (SHARED / "tinystories" / f"{name}.txt").read_text(encoding="utf-8").split("<|endoftext|>")
        lines = [json.dumps({"text": story.strip()}) + "\n" for story in stories if story.strip()]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def recipe(folder: Path, name: str, arguments: argparse.Namespace, samples: int | None) -> Recipe:
    """The recipe of the gallery: with data, or with `samples` texts of the teacher's."""
    import yaml

    settings = yaml.safe_load((REPO / "configs" / "stories-data-free.yaml").read_text())
    settings |= {"name": name, "runs": str(folder / "runs"), "evaluation": {"max_tokens": arguments.heldout}}
    settings["teacher"] |= {
        "path": str(SHARED / "stories260k"),
        "tokenizer": str(REPO / "configs" / "data" / "stories-tokenizer"),
    }
    settings["data"] = {
        "type": "text", "path": str(folder / "train.jsonl"), "heldout": str(folder / "valid.jsonl"),
    }  # fmt: skip
    settings["cluster"] = {"replicas": arguments.replicas, "workers": 1}
    if samples is None:
        del settings["synthesis"]
    else:
        settings["synthesis"] |= {"samples": samples, "max_tokens": arguments.max_tokens}
    for name in ("epochs", "batch_size"):
        del settings["training"][name]
    settings["training"] |= {
        "steps": arguments.steps,
        "tokens_per_step": arguments.tokens_per_step,
        "seeds": list(range(arguments.seeds)),
        "baseline": samples is None,
        "checkpoint": {"every_steps": 500, "keep": 1},
        "log_every_steps": 50,
    }
    return Recipe.model_validate(settings)


def teach(wanted: Recipe) -> dict[str, Any]:
    """Make labels, train the arms one after the other in this process, evaluate."""
    from cluster.labelling.run import label_store
    from cluster.synthesis.run import synthesize
    from kdcore.evaluation.run import evaluate_run
    from kdcore.runs import begin_run
    from kdcore.training.arms import plan_arms
    from kdcore.training.run import run_arms

    begin_run(wanted)
    if wanted.synthesis is None:
        label_store(wanted, on_note=progress)
    else:
        synthesize(wanted, on_note=progress)
    run_arms(wanted, plan_arms(wanted), lambda step: progress(f"{wanted.name}: {step}"))
    return evaluate_run(wanted)


def closeness(arms: dict[str, dict[str, float]], name: str) -> float:
    """Share of the way from the student alone to the one taught with data that a student without data goes."""
    alone, taught = arms["alone"]["loss"], arms["with-data"]["loss"]
    return round((alone - arms[name]["loss"]) / (alone - taught), 3)


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_data_free_text", description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps")
    parser.add_argument("--tokens-per-step", type=int, default=6144)
    parser.add_argument("--samples", type=int, nargs="*", default=[1600, 6400], help="texts that the teacher writes")
    parser.add_argument("--max-tokens", type=int, default=500, help="of a text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--heldout", type=int, default=60_000, help="tokens")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--keep", default=None, help="folder for the runs; a killed measurement goes on from there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_stories(folder)
        found = teach(recipe(folder, "with-data", arguments, None))
        arms = {"teacher": arm(found, "teacher"), "alone": arm(found, "baseline"), "with-data": arm(found, "student")}
        written: dict[str, Any] = {}
        for samples in arguments.samples:
            name = f"no-data-{samples}"
            found = teach(recipe(folder, name, arguments, samples))
            arms[name] = arm(found, "student")
            written[name] = found["store"]["labels"]
            progress(f"{name}: {arms[name]}")
    headline = {name: quality["loss"] for name, quality in arms.items()}
    headline |= {f"{name}_closeness": closeness(arms, name) for name in written}
    command = ["python", "-m", "tests.benchmarks.teaches_data_free_text", *sys.argv[1:]]
    emit("teaches_data_free_text", headline, command, arms=arms, written_tokens=written, **vars(arguments))


if __name__ == "__main__":
    main()
