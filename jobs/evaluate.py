"""`kd evaluate`: measure teacher and students on held-out data and write the report."""

from jobs.common import Overrides, RecipeFile, command, run_alone, say

__all__ = ["evaluate"]


@command
def evaluate(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Measure the teacher and every trained student; write report.md, report.png and report.json (again)."""
    from jobs import stages
    from jobs.generations import learning_recipe
    from kdcore.config.load import load_recipe
    from kdcore.runs import begin_run

    checked = load_recipe(recipe, overrides or ())
    begin_run(checked)
    with stages.cluster(checked):
        report = stages.report(learning_recipe(checked))
    say(f"report: {report}")


if __name__ == "__main__":
    run_alone(evaluate)
