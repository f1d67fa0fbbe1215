"""One unit of texts: what they begin with, how they are drawn, and where they end."""

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from kdcore.config.synthesis.text import SelfGenerationConfig
from kdcore.identity import sample_key_text
from kdcore.synthesis.text.beginnings import Beginning, Prompts, first_points, text_key
from kdcore.synthesis.text.decode import Writing
from kdcore.synthesis.text.drawing import Odds
from kdcore.synthesis.units import SynthesisUnit

__all__ = ["beginnings_of", "ends_of", "key_of_draws", "key_of_text", "name_of", "probe_unit", "writing_of"]

_NAME = re.compile(r"generation-(\d+)/unit-(\d+)/(\d+)")


def name_of(unit: SynthesisUnit, row: int) -> str:
    """What a text of a unit is called, in stores and files."""
    return f"generation-{unit.generation:03d}/{unit.id}/{row:05d}"


def key_of_draws(name: str, seed: int) -> bytes | None:
    """The 16 bytes that all draws of the text of this name are hashes of; None for a name that no text has."""
    found = _NAME.fullmatch(name)
    return None if found is None else text_key(seed, *map(int, found.groups()))


def key_of_text(tokenizer: Any, tokens: np.ndarray) -> bytes:
    """The key of the words that tokens int64 [T] are, as of a text from anywhere."""
    return sample_key_text(str(tokenizer.decode(tokens, skip_special_tokens=True)))


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


def ends_of(tokenizer: Any) -> set[int]:
    """The tokens that end a text for its tokenizer: the EOS, and a BOS, which begins the next one."""
    return {int(token) for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None}
