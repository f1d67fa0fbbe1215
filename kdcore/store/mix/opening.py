"""A mix by its stores and a few arguments, for loops of one's own and for commands."""

from collections.abc import Sequence

from pydantic import ValidationError

from kdcore.config.explain import explain
from kdcore.config.mix import MixConfig, Rule
from kdcore.errors import ConfigError
from kdcore.store.mix.mix import LabelMix
from kdcore.store.storage.places import Location, open_place

__all__ = ["mix_settings", "open_mix"]


def open_mix(
    stores: Sequence[Location],
    rule: Rule = "arithmetic",
    weights: Sequence[float] | None = None,
    missing: str = "refuse",
    seed: int = 0,
    names: Sequence[Sequence[str]] | None = None,
) -> LabelMix:
    """Open finished stores as one, their labels mixed while they are read; see MixConfig and docs/many-teachers.md.

    Raises what `open_store` does, IdentityMismatch for stores of other inputs, MissingLabels for samples that one lacks
    (with `missing` "refuse"), and ConfigError for a rule that needs what the labels do not know.
    """
    return LabelMix.of(mix_settings(stores, rule, weights, missing, seed, names))


def mix_settings(
    stores: Sequence[Location],
    rule: str,
    weights: Sequence[float] | None = None,
    missing: str = "refuse",
    seed: int = 0,
    names: Sequence[Sequence[str]] | None = None,
) -> MixConfig:
    """What `open_mix` is told, checked: ConfigError where it does not fit together."""
    each = {"weight": weights, "names": names}
    for what, given in each.items():
        if given is not None and len(given) != len(stores):
            raise ConfigError(
                f"a mix has one `{what}` for each store: {len(stores)} stores, got {len(given)} of {what}"
            )
    listed = [
        {"path": open_place(path).url, **{what: given[place] for what, given in each.items() if given is not None}}
        for place, path in enumerate(stores)
    ]
    settings = {"stores": listed, "rule": rule, "missing": missing, "seed": seed}
    try:
        return MixConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"a mix: {explain(error, settings)}") from error
