"""Training killed again and again, with other numbers of ranks: is it still the undisturbed run?

`kills`: SIGKILLs of all ranks at random steps, of each engine. `order_equal`: 1 when every step of both epochs used the
samples that it used in the undisturbed run, none missing and none twice. `loss_difference`: the largest difference of
the last loss from the undisturbed run's. World sizes go 2, 1, 2, 1, ...; micro-batches change with every start.

    python -m tests.benchmarks.resume [--kills 10]
"""

import argparse
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import REPO, emit, progress

ENGINES: dict[str, dict[str, Any]] = {
    "torch": {"type": "torch"},
    "zero2": {"type": "deepspeed", "zero_stage": 2},
    "zero3": {"type": "deepspeed", "zero_stage": 3},
}
BATCH, SEQUENCE, DOCUMENTS = 4, 32, 30
# One rank. Sleeps after each step, so that kills land inside the run.
RANK = """
import json, sys, time
from pathlib import Path
from kdcore.training.run import run_arms
from tests.support.engine_worker import ARM, run_recipe
run_arms(run_recipe(Path(sys.argv[1]), sys.argv[2], **json.loads(sys.argv[3])), [ARM], lambda _: time.sleep(0.1))
"""


@dataclass(frozen=True)
class Outcome:
    """What one engine's runs gave."""

    kills: int
    order_equal: bool
    loss_difference: float
    weights_difference: float
    steps: int


def settings(engine: str, micro: int) -> dict[str, Any]:
    """The run's settings: two epochs, a checkpoint every 5 steps."""
    return {
        "steps": None,
        "epochs": 2.0,
        "batch_size": BATCH,
        "sequence_length": SEQUENCE,
        "micro_batch_size": micro,
        "engine": ENGINES[engine],
        "optimizer": {"learning_rate": 3e-3, "weight_decay": 0.1},
        "checkpoint": {"every_steps": 5},
        "log_every_steps": 1,
    }


def directory(root: Path, name: str) -> Path:
    """The arm of a run."""
    return root / "runs" / name / "arms" / "student-seed0"


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    """The run's metrics so far."""
    from kdcore.training.metrics_log import read_metrics

    return read_metrics(directory(root, name) / "metrics.jsonl")


def launch(root: Path, name: str, engine: str, world: int, micro: int) -> list[subprocess.Popen[bytes]]:
    """The ranks of one start, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", RANK, str(root), name, json.dumps(settings(engine, micro))]
    base = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "TOKENIZERS_PARALLELISM": "false"}
    base |= {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": None}
    ranks = [base | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [subprocess.Popen(command, env=environment, **quiet) for environment in ranks]


def kill_at(root: Path, name: str, step: int, processes: list[subprocess.Popen[bytes]]) -> None:
    """SIGKILL to all ranks once `step` is logged; RuntimeError when the run ended before."""
    try:
        while not any(line["step"] >= step for line in lines(root, name)):
            if any(process.poll() is not None for process in processes):
                raise RuntimeError(f"{name} ended before step {step}, where it was to be killed")
            time.sleep(0.02)
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait()


def finish(name: str, processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the end of an undisturbed start; RuntimeError when it failed."""
    codes = [process.wait() for process in processes]
    if any(codes):
        raise RuntimeError(f"{name} ended with {codes}")


def measure(root: Path, engine: str, kills: int, seed: int = 0) -> Outcome:
    """Two epochs undisturbed on two ranks, and the same killed `kills` times; both over ROOT's corpus and labels."""
    from safetensors.torch import load_file

    whole, broken = f"whole-{engine}", f"broken-{engine}"
    finish(whole, launch(root, whole, engine, world=2, micro=BATCH))
    wanted = lines(root, whole)
    draw = random.Random(seed)
    points = sorted(draw.sample(range(3, len(wanted) - 1), kills))
    starts = itertools.cycle([(2, 2), (1, 3), (2, 1), (1, 1)])  # world size, micro-batch
    for number, ((world, micro), step) in enumerate(zip(starts, points, strict=False)):
        progress(f"{engine}: start {number + 1}, {world} rank(s), killed at step {step} of {len(wanted)}")
        kill_at(root, broken, step, launch(root, broken, engine, world, micro))
    world, micro = next(starts)
    finish(broken, launch(root, broken, engine, world, micro))
    found = lines(root, broken)
    ours, theirs = (load_file(directory(root, name) / "student" / "model.safetensors") for name in (broken, whole))
    return Outcome(
        kills=len(points),
        order_equal=_order(found) == _order(wanted) and len(set(_order(found))) == len(found),
        loss_difference=abs(found[-1]["loss"] - wanted[-1]["loss"]),
        weights_difference=max(float((ours[key] - theirs[key]).norm() / theirs[key].norm()) for key in theirs),
        steps=len(wanted),
    )


def _order(found: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(line["step"], line["samples_digest"]) for line in found]


def prepare(root: Path) -> None:
    """The corpus and its labels."""
    from tests.support.training import text_recipe, write_corpus, write_labels

    write_corpus(root / "corpus", DOCUMENTS)
    write_labels(text_recipe(root, "labels", teacher=True))


def once_each(root: Path) -> bool:
    """Whether the plan's first epoch, whole steps of it, has each sample once: what a digest of a step stands for."""
    from kdcore.training.step_plan import StepPlan
    from kdcore.training.task import make_task
    from tests.support.engine_worker import ARM, run_recipe

    recipe = run_recipe(root, "plan", **settings("torch", 1))
    lengths = make_task(recipe, ARM).samples.lengths
    plan = StepPlan(ARM.training_config(recipe), 1, ARM.seed, lengths)
    used = Counter(int(index) for step in range(len(lengths) // BATCH) for index in plan.step_indices(step))
    return set(used.values()) == {1}


def main(arguments: list[str] | None = None) -> None:
    """The measurement, and its one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each engine")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kdcore-resume-") as folder:
        root = Path(folder)
        prepare(root)
        outcomes = {engine: measure(root, engine, chosen.kills) for engine in chosen.engines}
        equal = once_each(root) and all(outcome.order_equal for outcome in outcomes.values())
    headline = {
        "kills": min(outcome.kills for outcome in outcomes.values()),
        "order_equal": float(equal),
        "loss_difference": max(outcome.loss_difference for outcome in outcomes.values()),
    }
    details = {engine: vars(outcome) for engine, outcome in outcomes.items()}
    emit("resume", headline, ["python", "-m", "tests.benchmarks.resume", *(arguments or sys.argv[1:])], engines=details)


if __name__ == "__main__":
    main()
