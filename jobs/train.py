"""`kd train`: train a recipe's students (from labels already there, or on hard labels alone)."""

import os
import shlex

from jobs.common import Overrides, RecipeFile, command, run_alone, say

__all__ = ["train"]


@command
def train(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Train the students: on Ray workers, or in place under torchrun or deepspeed. Finished arms are skipped."""
    from jobs import stages
    from jobs.generations import learning_recipe
    from kdcore.config.load import load_recipe, require
    from kdcore.errors import IncompleteStore
    from kdcore.runs import begin_run

    checked = load_recipe(recipe, overrides or ())
    again = " ".join(shlex.quote(part) for part in [recipe, *(overrides or ())])
    require(checked, "student", "training")
    begun, checked = checked, learning_recipe(checked)
    # After the recipe was checked: a typo is answered before torch is imported.
    from kdcore.store.manifest import is_finished
    from kdcore.training.arms import with_fitted_teacher

    live = stages.live_teacher(checked) is not None
    if live:
        with_fitted_teacher(checked)  # raises where it is not trained yet, before a cluster is started
    stored = checked.has_labels and not live
    if stored and checked.labels.mix is None and not is_finished(checked.store_path):
        raise IncompleteStore(
            f"training reads a finished label store, and '{checked.store_path}' is none: "
            f"run `kd precompute {again}` first, or set labels.path to a finished one"
        )
    if "WORLD_SIZE" in os.environ:
        stages.train_in_place(checked, begun)
        return
    begin_run(begun)
    if stored:
        stages.check_labels(checked)
    with stages.cluster(checked):
        stages.train_arms(checked)
    say(f"students: {checked.run_dir}/arms\nnext: kd evaluate {again}")


if __name__ == "__main__":
    run_alone(train)
