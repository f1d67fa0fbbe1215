"""The units of a synthesis: cut by number alone, so that every process knows the same ones."""

from dataclasses import dataclass
from typing import Any

from kdcore.config.paths import path_settings
from kdcore.config.synthesis.base import SynthesisBase
from kdcore.identity import digest_json

__all__ = ["SynthesisUnit", "asked_of", "cut_units", "settings_of_samples"]


@dataclass(frozen=True, slots=True)
class SynthesisUnit:
    """`samples` samples to be made from `seed`; `first` is the number of the first of them in its generation.

    `digest` names what is asked for; `num_bytes` is the size that a labelling unit has in bytes, here in samples.
    """

    id: str
    number: int
    generation: int
    first: int
    samples: int
    seed: int
    digest: str

    @property
    def num_bytes(self) -> int:
        """Its share of the work."""
        return self.samples


# How many are made, what is done with them, and where the student lies whose weights are compared.
_NOT_OF_SAMPLES = {"samples", "generations", "student", "real_per_class"}

# They were not always there: without them samples are what they were, and a run that began before goes on.
_LATER = {"layer_norm", "attention", "attention_pairs"}


def settings_of_samples(config: SynthesisBase) -> dict[str, Any]:
    """The settings that a unit's samples depend on, as JSON.

    Of files that are read only whether there are any: what is in them is in the identity, and they may be moved.
    """
    asked = config.model_dump(mode="json", exclude=_NOT_OF_SAMPLES | config.gathering)
    for setting in path_settings(type(config)):
        setting.change(asked, lambda path: "given")
    return {name: value for name, value in asked.items() if value or name not in _LATER}


def cut_units(config: SynthesisBase, generation: int = 0) -> tuple[SynthesisUnit, ...]:
    """The units of a generation, in their order.

    With more samples asked for, the whole units stay what they were.
    """
    asked = settings_of_samples(config)
    units = []
    for number, first in enumerate(range(0, config.samples, config.unit_samples)):
        samples = min(config.unit_samples, config.samples - first)
        digest = digest_json([asked, generation, number, samples])
        seed = int(digest_json(["synthesis", config.seed, generation, number])[:15], 16)
        units.append(SynthesisUnit(f"unit-{number:06d}", number, generation, first, samples, seed, digest))
    return tuple(units)


def asked_of(config: SynthesisBase, generation: int = 0) -> str:
    """The digest of all that is asked for in a generation."""
    gathered = config.model_dump(mode="json", include=set(config.gathering))
    return digest_json([[unit.digest for unit in cut_units(config, generation)], gathered])
