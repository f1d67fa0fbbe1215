"""`kd precompute`: label a recipe's data with its teacher into a label store."""

import shlex
from typing import Annotated

import typer

from jobs.common import Overrides, RecipeFile, command, run_alone, say

__all__ = ["precompute"]


@command
def precompute(
    recipe: RecipeFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost; write nothing.")] = False,
    budget_bytes: Annotated[
        float | None, typer.Option("--budget-bytes", help="Codec threshold with about so many bytes a label.")
    ] = None,
) -> None:
    """Label the data with the teacher; a finished store is left as it is, a killed run continues."""
    from jobs import stages
    from jobs.generations import make_samples
    from kdcore.config.load import load_recipe, require
    from kdcore.runs import begin_run

    settings = list(overrides or ())
    if budget_bytes is not None:
        settings.append(f"labels.codec={{type: threshold, budget_bytes: {budget_bytes}}}")
    checked = load_recipe(recipe, settings)
    require(checked, "teacher")
    if dry_run:
        from jobs.dryrun import show, show_synthesis

        (show if checked.synthesis is None else show_synthesis)(checked)
        return
    begin_run(checked)
    with stages.cluster(checked):
        stages.fit_teacher(checked)
        learns = make_samples(checked)
        path = checked.store_path if checked.labels_come_with_samples else stages.label(learns)
    again = " ".join(shlex.quote(part) for part in [recipe, *settings])
    say(f"labels: {path}\nnext: kd store info {path}\n      kd train {again}")


if __name__ == "__main__":
    run_alone(precompute)
