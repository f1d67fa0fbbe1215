"""Trains several runs on the ranks of one torch.distributed group; the tests start it as a program."""

import contextlib
import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from kdcore.config import Recipe
from kdcore.errors import CheckpointError, OutOfSpace
from kdcore.students.export import load_student
from kdcore.training import loop
from kdcore.training.arms import Arm
from kdcore.training.model import DistillModel
from kdcore.training.run import run_arms
from kdcore.training.task import make_task
from tests.support.training import TOKENIZER, Weights, distilled_images, text_recipe

ARM = Arm("student-seed0", 0, uses_labels=True)
LITTLE = 20_000  # bytes: less than any file of a checkpoint's weights


def start(root: Path, *phases: tuple[int, dict[str, dict[str, Any]]]) -> None:
    """One phase after another, train runs {name: settings} on so many new processes, forked from one that has imported
    what they need. Settings that are not the recipe's:

    `images`: of `distilled_images`;
    `lora`: adapters on the model of `write_base`; `stop_at`: SIGTERM to rank 0, so that this step is the last;
    `bad_at` {step: what}: on the last rank, the `loss` or the `gradient` of these steps is not finite;
    `full_at`: the last rank's disk is full from this step on, and every rank must say so;
    `unreadable`: the last rank cannot read its checkpoint, and every rank must say so.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "tests.support.engine_worker", str(root), json.dumps(phases)]
    subprocess.run(command, env=environment, check=True, timeout=880)


def run_recipe(
    root: Path, name: str, lora: dict[str, Any] | None = None, images: bool = False, **settings: Any
) -> Recipe:
    """The recipe of one run."""
    if images:
        return distilled_images(root, name, **settings)
    recipe = text_recipe(root, name, teacher=True, **settings).model_dump(mode="json")
    if lora is not None:
        recipe["student"] = {"type": "causal_lm", "path": str(root / "base"), "lora": lora}
    return Recipe.model_validate(recipe)


def write_base(root: Path) -> None:
    """The shipped model as ROOT/base, for adapters, with weights that bfloat16 would round."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(TOKENIZER, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.001
    model.save_pretrained(root / "base")
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(root / "base")


@functools.cache
def start_weights(root: Path, lora: bool = False) -> Weights:
    """The student's weights before the first step, by the names of its export."""
    if lora:
        return load_student(root / "base").state_dict()
    torch.manual_seed(ARM.seed)
    return make_task(text_recipe(root, "unused", teacher=True), ARM).build().state_dict()


def train(rank: int, world: int, root: str, group: str, runs: dict[str, dict[str, Any]]) -> None:
    """One rank; all runs, one after the other."""
    dist.init_process_group("gloo", init_method=f"file://{root}/{group}", rank=rank, world_size=world)
    for name, settings in runs.items():
        stop, bad, full, broken = (settings.pop(key, None) for key in ("stop_at", "bad_at", "full_at", "unreadable"))
        last = rank == world - 1

        def told(progress: Any, stop: int | None = stop, name: str = name) -> None:
            print(f"{name} of {world}: {progress}", flush=True)
            if stop is not None and progress.step == stop - 1:
                os.kill(os.getpid(), signal.SIGTERM)

        with _bad_steps(bad if last else None), _full_disk(full if last else None), _unreadable(broken and last):
            try:
                run_arms(run_recipe(Path(root), name, **settings), [ARM], told)
            except SystemExit as end:
                if stop is None or end.code != 143:
                    raise
            except OutOfSpace:
                if full is None:
                    raise
            except (OSError, CheckpointError) as error:
                if not broken or "checkpoint" not in str(error):
                    raise
            else:
                assert stop is None
                assert full is None
                assert not broken
    dist.destroy_process_group()


@contextlib.contextmanager
def _each_step(hook: Any) -> Iterator[None]:
    """Calls hook(step), counted from 1, when a step begins."""
    inner = loop.seed_step
    loop.seed_step = lambda seed, step, rank: (hook(step + 1), inner(seed, step, rank))[1]
    try:
        yield
    finally:
        loop.seed_step = inner


@contextlib.contextmanager
def _bad_steps(bad: dict[str, str] | None) -> Iterator[None]:
    if bad is None:
        yield
        return
    inner, now = DistillModel.forward, [""]

    def forward(model: DistillModel, batch: Any, progress: float) -> Any:
        loss, metrics = inner(model, batch, progress)
        what = bad.get(now[0])
        if what == "loss":
            loss = loss * torch.nan
        elif what == "gradient":  # of a root at zero: nothing times infinity
            loss = loss + (loss * 0).sqrt()
        return loss, metrics

    DistillModel.forward = forward
    try:
        with _each_step(lambda step: now.__setitem__(0, str(step))):
            yield
    finally:
        DistillModel.forward = inner


@contextlib.contextmanager
def _full_disk(step: int | None) -> Iterator[None]:
    """A limit on file sizes stands for a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(now: int) -> None:
        if step is not None and now >= step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (LITTLE, before[1]))

    try:
        with _each_step(limit):
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def _unreadable(broken: bool | None) -> Iterator[None]:
    """torch cannot read files, whoever asks: a disk that fails after it let them be opened."""
    inner = torch.load

    def load(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error of a checkpoint")

    torch.load = load if broken else inner
    try:
        yield
    finally:
        torch.load = inner


def import_for(settings: list[dict[str, Any]]) -> None:
    """What ranks would each import: for seconds, while their training takes a fraction of one."""
    if any("engine" in one for one in settings):
        importlib.import_module("deepspeed")
    if not all(one.get("images") for one in settings):
        importlib.import_module("transformers.models.llama.modeling_llama")


if __name__ == "__main__":
    root, phases = sys.argv[1], json.loads(sys.argv[2])
    import_for([settings for _, runs in phases for settings in runs.values()])
    for number, (world, runs) in enumerate(phases):
        group = f"group-{os.getpid()}-{number}"
        mp.start_processes(train, (world, root, group, runs), nprocs=world, start_method="fork")
