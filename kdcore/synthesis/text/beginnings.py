"""What texts begin with, and which texts of a unit begin alike: all a function of seed, generation, unit and row."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter

import numpy as np

from kdcore.config.synthesis.text import SelfGenerationConfig
from kdcore.errors import ConfigError
from kdcore.identity import KEY_BYTES, digest_json

__all__ = ["Beginning", "Prompts", "first_points", "spread", "text_key"]

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Beginning:
    """One text to write: the key (16 bytes) of its draws, its tokens so far, int64 [P], at least one.

    `first`: the point in [0, 1) that picks the first token written; None: a draw like the others.
    """

    key: bytes
    tokens: np.ndarray
    first: float | None = None


def text_key(seed: int, generation: int, unit: int, row: int) -> bytes:
    """The 16 bytes that all draws of a text are hashes of; nobody knows its words before it is written."""
    what = f"self-generation\0{seed}\0{generation}\0{unit}\0{row}"
    return hashlib.blake2b(what.encode(), digest_size=KEY_BYTES).digest()


def first_points(seed: int, generation: int, unit: int, count: int) -> np.ndarray:
    """Points in [0, 1) at equal distances, one a text of a unit, in a scattered order, float64 [count].

    A token of probability p is the first one of floor(p count) or one more of the unit's texts (systematic sampling;
    Madow 1949). The units' starts are a golden-ratio sequence, so that many units together are spread as evenly.
    """
    start = int(digest_json(["first token", seed, generation])[:13], 16) / 16**13
    order = np.array([spread(row, count) for row in range(count)], np.int64)
    return (order + (start + unit * _GOLDEN) % 1) / count


def spread(number: int, size: int) -> int:
    """Where a fixed permutation of 0 .. size - 1 takes `number` (modulo size); it takes neighbours far apart."""
    return number % size * _stride(size) % size


@cache
def _stride(size: int) -> int:
    step = max(1, round(size * _GOLDEN))
    while math.gcd(step, size) > 1:
        step += 1
    return step


class Prompts:
    """The tokens that text number n of a generation begins with: those of its prompt, after `begin`.

    `encode` gives the token ids of a text. Prompts take turns; the words for the slots of one are all combinations,
    in a scattered order. Raises ConfigError for a slot without words, and where there is neither prompt nor `begin`.
    """

    def __init__(self, config: SelfGenerationConfig, encode: Callable[[str], Sequence[int]], begin: int | None) -> None:
        self._encode, self._begin = encode, [] if begin is None else [begin]
        self._slots = dict(sorted(config.slots.items()))
        given = config.prompts if config.prompt_file is None else _lines(config.prompt_file)
        self._parts = [self._parse(text, config.prompt_file is None) for text in given]
        if not self._parts and not self._begin:
            raise ConfigError(
                "a text begins with the tokenizer's BOS or EOS, or with a prompt, and this tokenizer has neither: set "
                "synthesis.prompts or synthesis.prompt_file"
            )

    def tokens(self, number: int) -> np.ndarray:
        """Int64 [P], at least one. ConfigError for a prompt without a token where there is no `begin`."""
        found = [*self._begin, *(self._encode(self.text(number)) if self._parts else ())]
        if not found:
            raise ConfigError(
                "a text begins with the tokenizer's BOS or EOS, or with its prompt; this tokenizer has neither, and "
                f"the prompt '{self.text(number)}' not one token: leave it out of synthesis.prompts, slots or "
                "prompt_file"
            )
        return np.array(found, np.int64)

    def longest(self) -> int:
        """The tokens of the longest one, with the longest word in each slot; a word of more tokens may be shorter."""
        longest = {name: max(words, key=len) for name, words in self._slots.items()}
        texts = ("".join(text + longest.get(name or "", "") for text, name in parts) for parts in self._parts)
        return len(self._begin) + max((len(self._encode(text)) for text in texts), default=0)

    def text(self, number: int) -> str:
        """In words; empty without prompts."""
        if not self._parts:
            return ""
        parts, turn = self._parts[number % len(self._parts)], number // len(self._parts)
        names = list(dict.fromkeys(name for _, name in parts if name is not None))
        choices = math.prod(len(self._slots[name]) for name in names)
        choice = spread(turn, choices)
        words = {}
        for name in names:
            choice, place = divmod(choice, len(self._slots[name]))
            words[name] = self._slots[name][place]
        return "".join(text + ("" if name is None else words[name]) for text, name in parts)

    def _parse(self, text: str, has_slots: bool) -> list[tuple[str, str | None]]:
        if not has_slots:
            return [(text, None)]
        try:
            parts = [(literal, name) for literal, name, _, _ in Formatter().parse(text)]
        except ValueError as error:
            raise ConfigError(f"synthesis.prompts: '{text}': {error}; write {{{{ for a brace that is text") from error
        unknown = [name for _, name in parts if name is not None and name not in self._slots]
        if unknown:
            raise ConfigError(
                f"synthesis.prompts: '{text}' has {{{unknown[0]}}}, which synthesis.slots does not know; it has "
                f"{sorted(self._slots)}; write {{{{ for a brace that is text"
            )
        return parts


def _lines(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"synthesis.prompt_file must be a text file, one prompt a line: '{path}': {error}") from error
    found = [line for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"synthesis.prompt_file must have a prompt, '{path}' has none")
    return found
