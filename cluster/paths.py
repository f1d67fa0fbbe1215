"""Paths of a recipe that mean the same in every process: an actor's working directory is not the driver's."""

from pathlib import Path

from kdcore.config import Recipe
from kdcore.config.load import resolve_paths

__all__ = ["absolute_paths"]


def absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with the run directory, the store, and local paths of data and models made absolute."""
    tree = recipe.model_dump()
    resolve_paths(tree, Path.cwd())
    return Recipe.model_validate(tree)
