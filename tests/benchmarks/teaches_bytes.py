"""Does a teacher of other tokens teach? configs/bytes-from-bpe.yaml beside a student of the teacher's own tokens.

Held-out bits per byte of the students with and without the teacher, means over the seeds with their standard deviation.
Both kinds of students have the layers of the recipe, read the same documents, about as many bytes a step, and as many
steps; those of the teacher's tokens learn from `threshold` labels, and have more parameters by their embeddings. `uld`
and `gold` are students of bytes that learn by these losses from `topk` labels.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from tests.benchmarks.harness import REPO, emit, progress
from tests.benchmarks.teaches_encoder import teach

CONFIG = REPO / "configs" / "bytes-from-bpe.yaml"
BYTES_A_TOKEN = 3
"""Of the teacher's tokenizer on Python, rounded down: a sequence of its tokens has no fewer bytes than one of bytes."""
OTHER_LOSSES = ("uld", "gold")
TOP = "{type: topk, k: 12}"
TEACHERS_TOKENS = ("name=bpe-from-bpe", "labels.codec={type: threshold, budget_bytes: 12}", "student.tokenizer=null")


def recipes(runs: Path, overrides: list[str]) -> dict[str, Recipe]:
    """The recipe of configs/, its twin of the teacher's tokens, and those of other losses, which need no baseline."""
    from kdcore.config.load import load_recipe

    own = load_recipe(CONFIG, [f"runs={runs}", *overrides])
    assert own.training is not None
    length = own.training.sequence_length // BYTES_A_TOKEN
    soft = {"hard_weight": own.training.loss.hard_weight}
    twins = {"bpe": [*TEACHERS_TOKENS, f"training.sequence_length={length}", f"training.loss={soft}"]}
    for loss in OTHER_LOSSES:
        loss_settings = f"training.loss={ {'type': loss, **soft} }"
        twins[loss] = [f"name=bytes-by-{loss}", f"labels.codec={TOP}", loss_settings, "training.baseline=false"]
    made = {name: load_recipe(CONFIG, [f"runs={runs}", *overrides, *twin]) for name, twin in twins.items()}
    return {"bytes": own, **made}


def bits(found: dict[str, Any], role: str) -> dict[str, Any]:
    """Held-out bits per byte of one role: mean and standard deviation over the seeds, and each."""
    models: dict[str, Any] = found["models"]
    chosen = [model["quality"] for name, model in models.items() if name.startswith(role)]
    each = [round(float(quality["bits_per_byte"]), 4) for quality in chosen]
    deviation = statistics.stdev(each) if len(each) > 1 else 0.0
    return {"bits_per_byte": round(statistics.mean(each), 4), "std": round(deviation, 4), "each": each}


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.teaches_bytes", description=__doc__)
    parser.add_argument("--runs", type=Path, help="keep the runs in this folder, and go on with those that are there")
    parser.add_argument("--kinds", nargs="+", choices=["bytes", "bpe", *OTHER_LOSSES], help="default: all")
    parser.add_argument("overrides", nargs="*", help="settings of all recipes, such as training.steps=20")
    arguments = parser.parse_args()
    arms: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        known = recipes(arguments.runs or Path(folder), arguments.overrides)
        for name in arguments.kinds or known:
            found = teach(known[name])
            arms |= {"teacher": bits(found, "teacher"), f"{name}_taught": bits(found, "student")}
            if name not in OTHER_LOSSES:
                arms |= {f"{name}_alone": bits(found, "baseline")}
            progress(f"{name}: {arms}")
    headline = {name: arm["bits_per_byte"] for name, arm in arms.items()}
    emit("teaches_bytes", headline, ["python", "-m", "tests.benchmarks.teaches_bytes", *sys.argv[1:]], arms=arms)


if __name__ == "__main__":
    main()
