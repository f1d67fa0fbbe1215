"""`kd distill`: a recipe from start to report."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import Overrides, RecipeFile, command, run_alone, say

if TYPE_CHECKING:
    from kdcore.config.recipe import Recipe

__all__ = ["distill"]


@command
def distill(
    recipe: RecipeFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; write nothing.")] = False,
) -> None:
    """Label, train, evaluate, report. A killed run continues; a finished one says so and does nothing."""
    from jobs.chain import run_chain, show_chain
    from jobs.stages import live_teacher
    from kdcore.config.chain import load_chain
    from kdcore.config.load import load_recipe, require

    chain = load_chain(recipe, overrides or ())
    if chain is not None:
        for stage in chain.stages:
            require(stage, "teacher", "student", "training")
        # Of every stage before the first is begun: what the last one refuses is not found out after hours.
        lives = {stage.name: live_teacher(stage) for stage in chain.stages}
        if dry_run:
            show_chain(chain)
        else:
            run_chain(chain, lambda stage: _distilled(stage, lives[stage.name]))
        return
    checked = load_recipe(recipe, overrides or ())
    mixes = checked.labels.mix is not None
    require(checked, *(() if mixes else ("teacher",)), "student", "training")
    live = live_teacher(checked)
    if dry_run:
        from jobs.dryrun import show, show_mix, show_synthesis

        if checked.synthesis is not None:
            show_synthesis(checked)
        elif mixes:
            show_mix(checked)
        else:
            show(checked, live)
        return
    run_dir = _distilled(checked, live)
    _closing_words(checked, live, run_dir, [recipe, *(overrides or ())])


def _distilled(recipe: "Recipe", live: str | None) -> Path:
    """The run directory, with its report."""
    from kdcore.runs import begin_run, is_finished

    run_dir = begin_run(recipe)
    if is_finished(run_dir):
        say(f"finished before: '{run_dir}' has its report; nothing to do (another run: name={recipe.name}-2)")
    else:
        _run(recipe, live)
    return run_dir


def _run(recipe: "Recipe", live: str | None) -> None:
    from jobs import stages
    from jobs.generations import make_samples

    with stages.cluster(recipe):
        stages.fit_teacher(recipe)
        recipe = make_samples(recipe)
        if recipe.labels.mix is not None or recipe.labels_come_with_samples:
            stages.check_labels(recipe)
        elif live is None:
            stages.check_documents(recipe)
            stages.label(recipe)
        else:
            say(f"no labels are made, the teacher runs while students are trained: {live}")
        stages.train_arms(recipe)
        stages.report(recipe)


def _closing_words(recipe: "Recipe", live: str | None, run_dir: Path, arguments: list[str]) -> None:
    import json

    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    say(f"\n{report['verdict']}\nreport: {os.path.relpath(run_dir / 'report.md')}\nnext:")
    for line in _next_commands(recipe, live, run_dir, arguments):
        say(f"  {line}")


def _next_commands(recipe: "Recipe", live: str | None, run_dir: Path, arguments: list[str]) -> list[str]:
    """Three commands that work as printed: the labels if any, the student, the same recipe with one override."""
    from kdcore.config.urls import is_url
    from kdcore.training.arms import plan_arms

    first = recipe.store_paths[0]
    store = first if is_url(first) else os.path.relpath(first)
    student = os.path.relpath(plan_arms(recipe)[0].export_directory(recipe))
    load = "from kdcore import load_student as load"
    if recipe.student is not None and recipe.student.type == "causal_lm":
        load = "from transformers import AutoModelForCausalLM; load = AutoModelForCausalLM.from_pretrained"
    ours = ("name=", "labels.path=", "training.loss.hard_weight=")
    again = [item for item in arguments if not item.startswith(ours)]
    composed = recipe.training is not None and bool(recipe.training.losses)
    change = "training.baseline=false" if composed else "training.loss.hard_weight=0.5"
    made = recipe.labels.mix is not None or recipe.synthesis is not None
    stored = [f"labels.path={store}"] if live is None and not made else []
    override = [f"name={recipe.name}-2", *stored, change]
    python = _program("python")
    labels = f'from datasets import load_dataset; print(load_dataset("{store}"))'
    model = f'{load}; print(load("{student}"))'
    return [
        *([f"{python} -c {shlex.quote(labels)}"] if live is None else []),
        f"{python} -c {shlex.quote(model)}",
        f"{_program('kd')} distill {shlex.join(again + override)}",
    ]


def _program(name: str) -> str:
    """How the person calls a program of this environment: by name where it is on the path, else by its place."""
    ours = Path(sys.executable).parent / name
    found = shutil.which(name)
    return name if found is not None and Path(found) == ours else os.path.relpath(ours)


if __name__ == "__main__":
    run_alone(distill)
