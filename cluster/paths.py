"""Paths of a recipe that mean the same in every process: an actor's working directory is not the driver's."""

from pathlib import Path

from kdcore.config import Recipe
from kdcore.config.load import resolve_paths
from kdcore.config.models import TeacherImageConfig
from kdcore.errors import TeacherError

__all__ = ["absolute_paths", "with_fitted_teacher"]


def absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the run directory, the store, and local paths of data and models made absolute."""
    tree = recipe.model_dump()
    resolve_paths(tree, Path.cwd())
    return Recipe.model_validate(tree)


def with_fitted_teacher(recipe: Recipe) -> Recipe:
    """The recipe whose teacher, where it was trained on the spot (`teacher.fit`), is the export in RUN/teacher.

    Raises TeacherError when that training has not finished.
    """
    teacher = recipe.teacher
    if not isinstance(teacher, TeacherImageConfig) or teacher.fit is None:
        return recipe
    directory = recipe.run_dir / "teacher"
    if not (directory / "result.json").exists():
        raise TeacherError(
            f"a teacher with `fit` must be trained before it labels, but {directory} holds no finished one: "
            "run `kd distill`, which trains it first, or set teacher.path to its weights and leave out teacher.fit"
        )
    return recipe.model_copy(update={"teacher": teacher.model_copy(update={"path": str(directory)})})
