"""One unit of texts: what they begin with, how they are drawn, and where they end."""

from collections.abc import Collection

from kdcore.config.synthesis.text import SelfGenerationConfig
from kdcore.synthesis.text.beginnings import Beginning, Prompts, first_points, text_key
from kdcore.synthesis.text.decode import Writing
from kdcore.synthesis.text.drawing import Odds
from kdcore.synthesis.units import SynthesisUnit

__all__ = ["beginnings_of", "probe_unit", "writing_of"]


def probe_unit(config: SelfGenerationConfig, num_labels: int) -> SynthesisUnit:
    """The texts that a codec learns on, about so many labels; they are no other unit's."""
    samples = max(1, min(config.unit_samples, 2 * num_labels // config.max_tokens))
    return SynthesisUnit("probe", -1, 0, 0, samples, config.seed, "")


def beginnings_of(config: SelfGenerationConfig, prompts: Prompts, unit: SynthesisUnit) -> list[Beginning]:
    """What the texts of a unit begin with, in the order of their rows."""
    seed, generation, number = config.seed, unit.generation, unit.number
    tokens = [prompts.tokens(unit.first + row) for row in range(unit.samples)]
    keys = [text_key(seed, generation, number, row) for row in range(unit.samples)]
    if config.first_token == "sampled":
        return [Beginning(key, begin) for key, begin in zip(keys, tokens, strict=True)]
    points = first_points(seed, generation, number, unit.samples)
    return [Beginning(key, begin, point) for key, begin, point in zip(keys, tokens, points.tolist(), strict=True)]


def writing_of(
    config: SelfGenerationConfig, beginnings: list[Beginning], stops: Collection[int], batch_divisor: int = 1
) -> Writing:
    """The texts of a unit, still to be written; `batch_divisor` makes batches smaller."""
    odds = Odds(config.temperature, config.top_p)
    return Writing(beginnings, odds, config.max_tokens, stops, max(1, config.batch // batch_divisor))
