"""Paths of a recipe that mean the same in every process: an actor's working directory is not the driver's."""

from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from kdcore.config.models import TeacherImageConfig
from kdcore.config.urls import is_url
from kdcore.errors import TeacherError

__all__ = ["absolute_paths", "with_fitted_teacher"]

_MAYBE_PATHS = ("path", "tokenizer", "heldout", "chat_template")


def absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the run directory, the store, and local paths of data and models made absolute."""
    values = _walk(recipe.model_dump())
    values["runs"] = str(Path(recipe.runs).absolute())
    if recipe.labels.path is not None and not is_url(recipe.labels.path):
        values["labels"]["path"] = str(Path(recipe.labels.path).absolute())
    return Recipe.model_validate(values)


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


def _walk(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _walk(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, key) for item in value]
    if key in _MAYBE_PATHS and isinstance(value, str) and _is_local(value):
        return str(Path(value).absolute())
    return value


def _is_local(value: str) -> bool:
    """A hub name such as `org/model` is not a path here, nor a URL; a pattern is one wherever its folder exists."""
    return not is_url(value) and ("*" in value or Path(value).exists())
