"""The labels that a recipe's students learn from: one store, or several opened as one."""

from kdcore.config import Recipe
from kdcore.errors import ConfigError
from kdcore.store.mix.mix import LabelMix
from kdcore.store.reader import LabelStore, open_store
from kdcore.training.needs import check_apart, check_kinds

__all__ = ["Labelled", "open_labels"]

Labelled = LabelStore | LabelMix


def open_labels(recipe: Recipe) -> Labelled:
    """The finished store of a recipe, or its mix; raises what opening them does.

    ConfigError where the recipe's losses cannot take the labels of a mix, whose codecs are known only now.
    """
    settings, training = recipe.labels.mix, recipe.training
    if settings is None:
        return open_store(recipe.store_path)
    mix = LabelMix.of(settings)
    if training is None:
        return mix
    if mix.apart:
        check_apart(training.losses, mix.codecs)
        return mix
    if training.losses:
        check_kinds(training.losses, mix.kinds)
        return mix
    for kind in sorted(mix.kinds):
        problem = training.loss.misfit_of(kind)
        if problem is not None:
            raise ConfigError(f"{mix.described} has labels that are {kind}: {problem}")
    return mix
