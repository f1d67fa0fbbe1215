"""Samples where there are none: made by the teacher, generation after generation, and learnt from in between."""

from jobs.common import say
from kdcore.config.models import ModelConfig
from kdcore.config.recipe import Recipe

__all__ = ["learning_recipe", "make_samples"]


def learning_recipe(recipe: Recipe) -> Recipe:
    """The recipe that learns from the samples which were made; as it is where none are to be made."""
    if recipe.synthesis is None:
        return recipe
    from kdcore.data.synthesised.recipes import learning_from

    return learning_from(recipe, recipe.synthesis.generations)


def make_samples(recipe: Recipe) -> Recipe:
    """Make all generations, or continue them; the recipe that learns from them. As it is without `synthesis`.

    Between two generations a student is trained on all samples so far, whom those of the next one are made to teach;
    of methods that ask no student none is.
    """
    if recipe.synthesis is None:
        return recipe
    from cluster.synthesis.run import synthesize
    from kdcore.runs import stage

    last = recipe.synthesis.generations - 1
    student = recipe.synthesis.student
    for generation in range(last + 1):
        taught = recipe.synthesis.model_copy(update={"student": student})
        with stage(recipe.run_dir, "synthesis"):
            say(f"stage: synthesize, generation {generation + 1} of {last + 1}")
            synthesize(recipe.model_copy(update={"synthesis": taught}), generation)
        if generation < last and recipe.synthesis.needs_student:
            student = _train_between(recipe, generation, student)
    return learning_recipe(recipe)


def _train_between(recipe: Recipe, generation: int, student: str | None) -> str:
    """The directory of a student that learnt from the generations so far, from where the last one was."""
    from jobs import stages
    from kdcore.training.arms import plan_arms

    between = _recipe_between(recipe, generation, student)
    if not recipe.labels_come_with_samples and stages.live_teacher(between) is None:
        stages.label(between)
    stages.train_arms(between)
    return str(plan_arms(between)[0].export_directory(between))


def _recipe_between(recipe: Recipe, generation: int, student: str | None) -> Recipe:
    from kdcore.config.models import FittedTeacher
    from kdcore.data.synthesised.places import labels_folder
    from kdcore.data.synthesised.recipes import learning_from
    from kdcore.training.arms import with_fitted_teacher

    came = labels_folder(recipe, generation) if recipe.labels_come_with_samples else None
    so_far = learning_from(with_fitted_teacher(recipe), generation + 1)
    teacher = so_far.teacher
    if isinstance(teacher, FittedTeacher):
        teacher = teacher.model_copy(update={"fit": None})  # it is trained, and lies elsewhere than in this run
    training, model = so_far.training, so_far.student
    assert training is not None  # a recipe of several generations is refused without
    assert model is not None
    alone = training.model_copy(update={"seeds": training.seeds[:1], "baseline": False})
    changes = {
        "name": f"generation-{generation:03d}",
        "runs": str(recipe.run_dir),
        "teacher": teacher,
        "training": alone,
        "student": model if student is None else _going_on(model, student),
        "labels": so_far.labels.model_copy(update={"path": came}),
        "synthesis": None,
    }
    return so_far.model_copy(update=changes)


def _going_on(model: ModelConfig, path: str) -> ModelConfig:
    """A student that begins where the one exported to `path` ended: not from an `architecture`, nor from the hub."""
    begins = {"path": path, "architecture": {}, "revision": None}
    return model.model_copy(update={name: value for name, value in begins.items() if name in type(model).model_fields})
