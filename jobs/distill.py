"""`kd distill`: a recipe from start to report."""

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
    from kdcore.config.load import load_recipe, require
    from kdcore.runs import begin_run, is_finished

    checked = load_recipe(recipe, overrides or ())
    require(checked, "teacher", "student", "training")
    if dry_run:
        from jobs.dryrun import show

        show(checked)
        return
    run_dir = begin_run(checked)
    if is_finished(run_dir):
        say(f"finished before: '{run_dir}' has its report; nothing to do (another run: name={checked.name}-2)")
    else:
        _run(checked)
    _closing_words(checked, run_dir, [recipe, *(overrides or ())])


def _run(recipe: "Recipe") -> None:
    from jobs import stages

    with stages.cluster(recipe):
        stages.fit_teacher(recipe)
        stages.label(recipe)
        stages.train_arms(recipe)
        stages.report(recipe)


def _closing_words(recipe: "Recipe", run_dir: Path, arguments: list[str]) -> None:
    import json
    import shlex

    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    again = shlex.join([arguments[0], *(item for item in arguments[1:] if not item.startswith("name="))])
    say(f"\n{report['verdict']}\nreport: {run_dir / 'report.md'}\nnext:")
    say(f"  kd store info {shlex.quote(str(recipe.store_path))}")
    say(f"  tensorboard --logdir {shlex.quote(str(run_dir))}")
    say(f"  kd distill {again} name={recipe.name}-2 training.loss.hard_weight=0.5")


if __name__ == "__main__":
    run_alone(distill)
