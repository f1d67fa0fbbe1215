"""From the settings of a loss to what computes it, imported when a recipe names it."""

from importlib import import_module
from typing import Any

from kdcore.config.losses import LossTerm
from kdcore.config.losses.base import PlacesTerm, VectorTerm
from kdcore.config.losses.own import OwnTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import Method, Shapes
from kdcore.losses.tokens import pooled_inputs, pooled_shapes

__all__ = ["make_method", "method_class"]


def method_class(term: LossTerm) -> type[Method[Any]]:
    """The class that computes a term; ConfigError for a user's own that cannot be imported or is no Method."""
    own = isinstance(term, OwnTerm)
    module, _, name = (term.name if own else term.home).partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if not own:
            raise
        raise ConfigError(
            f"a loss of type import needs `name: module:class` on the import path, got '{term.name}': {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"'{module}:{name}' must be a subclass of kdcore.losses.method.Method, got {found!r}")
    return found


def make_method(term: LossTerm, shapes: Shapes) -> Method[Any]:
    """The method of a term, its parameters from torch's seed; ConfigError where the shapes do not fit it.

    It is built for, and given, one vector in place of tokens, where the term's `pool` says so.
    """
    kind = method_class(term)
    if not isinstance(term, VectorTerm | PlacesTerm):
        return kind(term, shapes)
    made = kind(term, pooled_shapes(term, shapes))
    if term.pool is not None:
        made.register_forward_pre_hook(lambda method, given: pooled_inputs(term, given[0]))
    return made
