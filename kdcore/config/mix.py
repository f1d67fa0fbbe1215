"""Several label stores as one: which, by what rule, and in what proportion."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdcore.config.base import IsPath, Settings

__all__ = ["WEIGHTED", "MixConfig", "MixedStore", "Rule", "VotesConfig"]

Rule = Literal[
    "arithmetic", "geometric", "entropy", "agreement", "min_ce", "max_confidence", "random", "routed", "apart", "votes"
]
WEIGHTED: tuple[Rule, ...] = ("arithmetic", "geometric", "entropy", "agreement", "random")
"""Rules in which each teacher has a weight."""


class MixedStore(Settings):
    """A finished label store of a mix."""

    path: Annotated[str, IsPath(url=True)] = Field(description="the store")
    weight: float | None = Field(
        default=None, gt=0, le=1, description="its share; all stores have one, or none: equal shares"
    )
    names: tuple[str, ...] = Field(
        default=(),
        description="of rule routed: patterns of names of this teacher's samples, as 'python/*'; none: the rest",
    )


class VotesConfig(Settings):
    """PATE: the noise in the number of votes for each class, and what is allowed to go wrong."""

    noise: Literal["gaussian", "laplace"] = Field(default="gaussian", description="GNMax or LNMax")
    scale: float = Field(gt=0, description="standard deviation of gaussian noise, or the scale of laplace, in votes")
    delta: float = Field(default=1e-5, gt=0, lt=1, description="of (epsilon, delta); below one over the records")


class MixConfig(Settings):
    """Several label stores as one, mixed while they are read (docs/many-teachers.md)."""

    stores: tuple[MixedStore, ...] = Field(min_length=2, description="finished stores of one tokenizer, or classes")
    rule: Rule = Field(
        default="arithmetic",
        description="arithmetic: weighted mean, unbiased labels stay so; geometric: of probabilities; entropy, "
        "agreement: mean by shares that hang on the position; min_ce, max_confidence: one teacher a position; random: "
        "one a sample and epoch; routed: one a sample, by its name; apart: each by itself, for training.losses; "
        "votes: a class by noisy votes",
    )
    missing: Literal["refuse", "rest", "hard"] = Field(
        default="refuse",
        description="a sample that a store has no label for; refuse: an error; rest: those that have one share it; "
        "hard: too, and the hard label where none has one (not of text)",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="of rule random; and of votes, where whoever knows it knows the noise"
    )
    votes: VotesConfig | None = Field(default=None, description="of rule votes")

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each store."""
        return tuple(1 / len(self.stores) if store.weight is None else store.weight for store in self.stores)

    @model_validator(mode="after")
    def _weights_of_the_rule(self) -> "MixConfig":
        given = [store.weight for store in self.stores if store.weight is not None]
        if not given:
            return self
        if self.rule not in WEIGHTED:
            raise ValueError(f"rule '{self.rule}' weighs no teacher: leave `weight` out")
        if len(given) < len(self.stores):
            raise ValueError(f"give every store a `weight`, or none: {len(given)} of {len(self.stores)} have one")
        if not math.isclose(sum(given), 1, abs_tol=1e-6):
            raise ValueError(f"the weights of a mix must sum to one, {given} sum to {sum(given):.6g}")
        return self

    @model_validator(mode="after")
    def _names_of_routes(self) -> "MixConfig":
        if self.rule != "routed" and any(store.names for store in self.stores):
            raise ValueError(f"`names` are of rule routed, not of '{self.rule}': leave them out, or set the rule")
        if self.rule in ("apart", "votes") and self.missing != "refuse":
            raise ValueError(f"rule '{self.rule}' hears every teacher of every sample: set `missing` to refuse")
        if (self.rule == "votes") != (self.votes is not None):
            raise ValueError("rule 'votes' and the settings `votes` (its noise) go together: give both, or none")
        if self.rule == "votes" and not self.seed:
            raise ValueError(
                "rule 'votes' needs a `seed` that is a secret: its noise follows from it, and the default, 0, is known "
                "to everybody"
            )
        if self.rule == "routed" and not any(store.names for store in self.stores):
            raise ValueError("rule 'routed' needs `names` of at least one store: patterns of the names of its samples")
        return self
