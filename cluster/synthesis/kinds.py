"""What differs between kinds of samples: who makes a unit, and what gathers the units. Named, since they need torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from cluster.connect import cluster_session
from cluster.ray_map import run_one
from kdcore.config import Recipe
from kdcore.config.data import Kind, kind_of
from kdcore.data.synthesised.gathering import Generation
from kdcore.errors import ConfigError
from kdcore.store.writer import Receipt

__all__ = ["Gather", "Gathering", "gather_on_worker", "making_of"]


@dataclass(frozen=True)
class Gathering:
    """What is to be gathered: the receipts of all units of a generation, and the digest of what was asked for."""

    generation: int
    asked: str
    receipts: Sequence[Receipt]


Gather = Callable[[Recipe, Gathering], Generation]
"""Gathers what is kept."""


@dataclass(frozen=True)
class _Making:
    """The class of a replica, and the function of a recipe and a Gathering: both as MODULE:NAME."""

    replica: str
    gather: str


_MAKING: dict[Kind, _Making] = {
    "image": _Making("cluster.synthesis.image_replica:ImageReplica", "cluster.synthesis.image_gather:gather"),
    "text": _Making("cluster.synthesis.text_replica:TextReplica", "cluster.synthesis.text_gather:gather"),
}


def making_of(recipe: Recipe) -> _Making:
    """How the samples of a recipe are made; ConfigError where nobody can."""
    kind = kind_of(recipe.data)
    if kind not in _MAKING:
        raise ConfigError(f"samples of kind '{kind}' cannot be made: `synthesis` needs data of {' or '.join(_MAKING)}")
    return _MAKING[kind]


def gather_on_worker(recipe: Recipe, task: Gathering) -> Generation:
    """On a worker of the recipe's cluster: samples do not pass through the driver."""
    with cluster_session(recipe.cluster):
        return run_one(_gather, (making_of(recipe).gather, recipe.model_dump_json(), task), cpus=1)


def _gather(told: tuple[str, str, Gathering]) -> Generation:
    named, recipe_json, task = told
    module, name = named.split(":")
    gather: Gather = getattr(import_module(module), name)
    return gather(Recipe.model_validate_json(recipe_json), task)
