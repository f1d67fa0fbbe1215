"""A recipe with `synthesis` as one that learns from what was made."""

from typing import Any

from kdcore.config import Recipe
from kdcore.config.data import SynthesisedImagesData, kind_of
from kdcore.data.synthesised.gathering import files_of
from kdcore.data.synthesised.places import samples_folder

__all__ = ["learning_from"]


def learning_from(recipe: Recipe, generations: int) -> Recipe:
    """The recipe whose training part are the samples of its first so many generations; others stay as they are.

    Of texts nothing changes: their label store has the tokens.
    """
    if recipe.synthesis is None or kind_of(recipe.data) == "text":
        return recipe
    tree: dict[str, Any] = recipe.data.model_dump()
    views = tree.pop("views", None)
    made = SynthesisedImagesData.model_validate(
        {
            "path": list(files_of(samples_folder(recipe), generations)),
            "real": tree,
            "views": views,
            "real_per_class": getattr(recipe.synthesis, "real_per_class", 0),
            "on_unreadable": recipe.data.on_unreadable,
        }
    )
    return recipe.model_copy(update={"data": made})
