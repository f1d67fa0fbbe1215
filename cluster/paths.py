"""Paths of a recipe that mean the same in every process: an actor's working directory is not the driver's."""

from pathlib import Path
from typing import Any

from kdcore.config import Recipe

__all__ = ["absolute_paths"]

_MAYBE_PATHS = ("path", "tokenizer", "heldout")


def absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the run directory, the store, and local paths of data and models made absolute."""
    values = _walk(recipe.model_dump())
    values["runs"] = str(Path(recipe.runs).absolute())
    if recipe.labels.path is not None:
        values["labels"]["path"] = str(Path(recipe.labels.path).absolute())
    return Recipe.model_validate(values)


def _walk(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _walk(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_walk(item, key) for item in value]
    if key in _MAYBE_PATHS and isinstance(value, str) and _is_local(value):
        return str(Path(value).absolute())
    return value


def _is_local(value: str) -> bool:
    """A hub name such as `org/model` is not a path here; a pattern is one wherever its folder exists."""
    return "*" in value or Path(value).exists()
