"""Train the arms of a recipe, one after the other, on all ranks of this job."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdcore.config import Recipe
from kdcore.errors import TrainingError, out_of_space
from kdcore.precision import bfloat16_note
from kdcore.students.build import checkpoint_activations
from kdcore.students.export import export_student
from kdcore.training.arms import Arm
from kdcore.training.attention import agreed_layout
from kdcore.training.bad_steps import BadSteps
from kdcore.training.checkpoint import (
    checkpoint_path,
    latest_checkpoint,
    read_record,
    require_files,
    set_torn_aside,
)
from kdcore.training.engines import Engine, make_engine
from kdcore.training.head_trial import check_logits
from kdcore.training.loop import Loop
from kdcore.training.metrics_log import MetricsLog, read_metrics
from kdcore.training.model import DistillModel, num_parameters
from kdcore.training.needs import check_losses
from kdcore.training.position_trial import check_positions
from kdcore.training.preemption import Notice, termination_notice
from kdcore.training.progress import OnProgress, Progress, print_progress
from kdcore.training.ranks import Ranks, process_ranks
from kdcore.training.step_plan import StepPlan
from kdcore.training.task import Task, compose_task, make_task
from kdcore.training.text_samples import TextSamples

Result = dict[str, Any]


def run_arms(recipe: Recipe, arms: Sequence[Arm], on_progress: OnProgress | None = None) -> dict[str, Result]:
    """Train `arms`; returns each arm's result (as in its result.json) on every rank.

    Runs on the ranks of torch.distributed where it is initialised or a launcher's environment asks for it, else in this
    process alone. A finished arm is not trained again; an interrupted one goes on from its last complete checkpoint,
    also with another number of ranks or micro-batch size. `on_progress` is called on rank 0; by default a line is
    printed. Raises TrainingError for a bad step (training.on_bad_step), OutOfSpace for a full disk, and Terminated, a
    SystemExit with code 143, after SIGTERM and a last checkpoint.
    """
    report = on_progress or print_progress
    with process_ranks() as ranks, termination_notice() as notice:
        _say_slow(recipe, arms, ranks, report)
        for arm in arms:
            _train_unless_finished(recipe, arm, ranks, report, notice)
            ranks.barrier()
        return {arm.name: read_result(arm.directory(recipe)) for arm in arms}


def read_result(directory: Path) -> Result:
    """The result of a finished arm; TrainingError when it is not finished."""
    path = directory / "result.json"
    if not path.exists():
        raise TrainingError(f"'{directory}' holds no finished arm: result.json is missing; run the training again")
    return json.loads(path.read_text())


@dataclass
class _Run:
    """One arm being trained."""

    recipe: Recipe
    arm: Arm
    ranks: Ranks
    task: Task
    engine: Engine
    steps: int
    report: OnProgress
    notice: Notice
    parameters: int
    trained: int
    measures: tuple[str, ...]


def _train_unless_finished(recipe: Recipe, arm: Arm, ranks: Ranks, report: OnProgress, notice: Notice) -> None:
    finished = ranks.from_first(int((arm.directory(recipe) / "result.json").exists()))
    if finished:
        if ranks.first:
            report(Progress(arm.name, 0, 0, note="finished before, nothing to do"))
        return
    config = arm.training_config(recipe)
    torch.manual_seed(arm.seed)
    task = make_task(recipe, arm)
    student = task.build()
    if isinstance(task.samples, TextSamples):
        check_logits(student)
        check_positions(student, int(task.samples.lengths.max()))
    composition = compose_task(recipe, arm, task, student, ranks.device)
    model = DistillModel(student, config, arm.uses_labels, composition)
    if config.activation_checkpointing:
        checkpoint_activations(model.student)
    layout, kept_apart = agreed_layout(model.student, config, ranks)
    plan = StepPlan(config, ranks.world, arm.seed, task.samples.lengths, layout, task.samples.views)
    counts = num_parameters(student), num_parameters(student, trained=True)
    engine = make_engine(model, config, ranks, plan.accumulates)
    try:
        run = _Run(recipe, arm, ranks, task, engine, plan.steps, report, notice, *counts, model.measures)
        if ranks.first:
            for note in (*task.samples.notes, *_padding(plan, kept_apart)):
                report(Progress(arm.name, 0, run.steps, note=note))
        _train(run, plan)
    finally:
        engine.close()


def _say_slow(recipe: Recipe, arms: Sequence[Arm], ranks: Ranks, report: OnProgress) -> None:
    """Once for all arms that are still to be trained: that what they are computed in is slow here."""
    pending = [arm for arm in arms if not (arm.directory(recipe) / "result.json").exists()]
    if not ranks.first or not pending:
        return
    names = ["teacher.fit.precision" if pending[0].role == "teacher" else "training.precision"]
    composed = recipe.training is not None and bool(recipe.training.losses)
    if composed and any(arm.uses_labels for arm in pending) and check_losses(recipe) is not None:
        names.append("teacher.dtype")  # it runs beside the student
    note = bfloat16_note(recipe, names, ranks.device)
    if note:
        report(Progress(pending[0].name, 0, 0, note=note))


def _padding(plan: StepPlan, kept_apart: str) -> list[str]:
    """How micro-batches are laid out, and what share of the first step is padding; nothing of images."""
    if not kept_apart:
        return []
    parts = plan.micro_batches(0, 0)
    tokens = sum(int(plan.lengths_of(part).sum()) for part in parts)
    ours, padded = (1 - tokens / plan.slots(parts, layout) for layout in (plan.layout, "padded"))
    packed = "one sequence a row" if plan.layout == "padded" else f"packed sequences (one a row: {padded:.1%})"
    return [f"{ours:.1%} padding in the first step with {packed}: {kept_apart}"]


def _train(run: _Run, plan: StepPlan) -> None:
    arm, ranks, directory = run.arm, run.ranks, run.arm.directory(run.recipe)
    config = arm.training_config(run.recipe)
    hears = run.report, run.notice, run.measures
    loop = Loop(arm.name, run.engine, run.task.samples, plan, config, ranks, directory, *hears)
    first = _resume(run, directory / "checkpoints", loop)
    logs: list[MetricsLog] = []

    def begin() -> None:
        if ranks.first:
            logs.append(MetricsLog(directory, first))

    def finish() -> None:
        if ranks.first:
            _finish(run, state, loop.bad_steps)

    ranks.together(begin, f"beginning the metrics in {directory}")
    try:
        loop.run(first, run.steps, logs[0] if logs else None)
    finally:
        for log in logs:
            log.close()
    state = run.engine.student_state()
    ranks.together(finish, f"exporting the student to {directory}")


def _resume(run: _Run, checkpoints: Path, loop: Loop) -> int:
    def note(text: str) -> None:
        run.report(Progress(run.arm.name, 0, run.steps, note=text))

    ranks, found, record = run.ranks, [0], {}

    def look() -> None:
        if ranks.first:
            found[0] = latest_checkpoint(checkpoints, note)

    def read() -> None:
        record.update(read_record(saved))
        require_files(saved)

    def load() -> None:
        run.engine.load(saved, record)

    def tidy() -> None:
        if ranks.first:
            set_torn_aside(checkpoints, step)

    ranks.together(look, f"looking for a checkpoint in {checkpoints}")
    step = ranks.from_first(found[0])
    saved = checkpoint_path(checkpoints, step)
    if step:
        ranks.together(read, f"reading the checkpoint {saved}")
        ranks.together(load, f"loading the checkpoint {saved}")
        loop.bad_steps.restore(record["bad_steps"])
        if ranks.first:
            note(f"resumed after step {step} of {run.steps}")
    ranks.together(tidy, f"setting aside what is torn in {checkpoints}")
    return step


def _finish(run: _Run, state: dict[str, torch.Tensor], bad_steps: BadSteps) -> None:
    """Export the model, then write result.json, which is what makes the arm finished."""
    directory = run.arm.directory(run.recipe)
    config = run.arm.training_config(run.recipe)
    lines = read_metrics(directory / "metrics.jsonl")
    result = {
        "arm": run.arm.name,
        "seed": run.arm.seed,
        "uses_labels": run.arm.uses_labels,
        "steps": run.steps,
        "parameters": run.parameters,
        "trained_parameters": run.trained,
        "engine": run.engine.name,
        "precision": config.precision,
        "world": run.ranks.world,
        "samples": len(run.task.samples),
        "skipped_steps": len(bad_steps.skipped),
        "bad_steps": bad_steps.skipped,
        "final": lines[-1] if lines else None,
        "seconds": lines[-1]["seconds"] if lines else 0.0,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    model = run.task.build()
    model.load_state_dict(state)
    card = {key: result[key] for key in ("arm", "seed", "steps", "parameters", "engine", "precision")}
    export_student(model, run.arm.export_directory(run.recipe), card=card, **run.task.export)
    aside, text = directory / ".partial-result.json", json.dumps(result, indent=1)
    try:
        aside.write_text(text)
        os.replace(aside, directory / "result.json")
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise out_of_space(error, aside, len(text)) from error
    run.report(Progress(run.arm.name, run.steps, run.steps, note=f"finished, {run.parameters:,} parameters"))
