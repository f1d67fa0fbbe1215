"""`kd synthesize`: samples without data, made by a recipe's teacher."""

import os
import shlex

from jobs.common import Overrides, RecipeFile, command, run_alone, say

__all__ = ["synthesize"]


@command
def synthesize(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Let the teacher make the samples that students learn from; a killed run continues where it was."""
    from jobs import stages
    from jobs.generations import make_samples
    from kdcore.config.load import load_recipe, require
    from kdcore.runs import begin_run

    checked = load_recipe(recipe, overrides or ())
    require(checked, "teacher", "synthesis")
    begin_run(checked)
    with stages.cluster(checked):
        stages.fit_teacher(checked)
        make_samples(checked)
    again = " ".join(shlex.quote(part) for part in [recipe, *(overrides or ())])
    samples = os.path.relpath(checked.run_dir / "samples")
    say(f"samples: {samples}\nnext: kd distill {again}")


if __name__ == "__main__":
    run_alone(synthesize)
