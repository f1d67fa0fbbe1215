"""Texts written side by side, a token of each at a step; where one ends, the next begins."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdcore.labels.sampling import label_seeds, uniforms
from kdcore.synthesis.text.beginnings import Beginning
from kdcore.synthesis.text.drawing import Odds, draw

__all__ = ["Decoder", "Step", "Writing"]

# What is remembered of a text is copied when slots go: an idle slot costs less until a few are.
_WORTH = 0.75
# In the place of a codec's seed: the word that is drawn is not to decide what a sampled label says of it.
_DRAWS = int.from_bytes(b"writing.", "little")


class Decoder(Protocol):
    """A language model that remembers the tokens it was given, in slots, a text each."""

    def begin_slots(self, slots: int, length: int) -> None:
        """Make room for texts of `length` tokens, and forget all others."""
        ...

    def keep_slots(self, slots: np.ndarray) -> None:
        """Let all slots go but these, int64 [n], which are slots 0 .. n - 1 from now on."""
        ...

    def decode(self, tokens: np.ndarray, positions: np.ndarray) -> Tensor:
        """Put a token int64 [n] into each slot, at `positions` int64 [n] of its text; logits [n, V] of the next ones.

        At position 0 a new text begins.
        """
        ...


@dataclass(frozen=True)
class Step:
    """One step: texts `rows` int64 [n], each at `positions` [n]; the `logits` [n, V] there, the `next` tokens [n]."""

    rows: np.ndarray
    positions: np.ndarray
    logits: Tensor
    next: np.ndarray


class Writing:
    """Texts being written from `beginnings`: `tokens` int64 [R, L] of which lengths [R] are written.

    Text r ends with one of the tokens `stops`, or after `max_tokens` beyond its prompt. What is written depends on
    the keys of the beginnings and on the model alone, not on `batch`, which is how many texts are written at a time
    (up to the order in which a model of floating point adds, as everywhere).
    """

    def __init__(
        self, beginnings: Sequence[Beginning], odds: Odds, max_tokens: int, stops: Collection[int], batch: int
    ) -> None:
        self._odds, self._stops, self._batch = odds, np.array(sorted(stops), np.int64), batch
        self._prompts = np.array([len(each.tokens) for each in beginnings], np.int64)
        self._most = self._prompts + max_tokens
        self.tokens = np.zeros((len(beginnings), int(self._most.max(initial=1))), np.int64)
        self._points = np.empty(self.tokens.shape)
        for row, each in enumerate(beginnings):
            self.tokens[row, : len(each.tokens)] = each.tokens
            self._points[row] = uniforms(label_seeds(each.key, self.tokens.shape[1], _DRAWS), 1)[:, 0]
            if each.first is not None:
                self._points[row, len(each.tokens) - 1] = each.first
        self.lengths = self._prompts.copy()

    @property
    def finished(self) -> np.ndarray:
        """Whether each text ended by itself, bool [R]."""
        return np.isin(self.tokens[np.arange(len(self.lengths)), self.lengths - 1], self._stops)

    @property
    def longest(self) -> int:
        """The most tokens that a text may have."""
        return self.tokens.shape[1]

    @torch.inference_mode()
    def steps(self, decoder: Decoder) -> Iterator[Step]:
        """Write all texts; each step is shown as soon as it is done."""
        rows = np.arange(min(self._batch, len(self.lengths)))
        positions, live, upcoming = np.zeros(len(rows), np.int64), np.ones(len(rows), bool), len(rows)
        decoder.begin_slots(len(rows), self.longest)
        while live.any():
            logits = decoder.decode(self.tokens[rows, positions], positions)
            at = np.flatnonzero(live)
            found = logits if len(at) == len(live) else logits[torch.from_numpy(at).to(logits.device)]
            following = self._follow(rows[at], positions[at], found)
            yield Step(rows[at], positions[at], found, following)
            ended = at[self._ended(rows[at], positions[at], following)]
            positions[at] += 1
            positions[ended] = 0
            begun = ended[: len(self.lengths) - upcoming]
            rows[begun] = np.arange(upcoming, upcoming + len(begun))
            upcoming += len(begun)
            live[ended[len(begun) :]] = False
            if live.mean() <= _WORTH:
                kept = np.flatnonzero(live)
                rows, positions, live = rows[kept], positions[kept], live[kept]
                decoder.keep_slots(kept)

    def _follow(self, rows: np.ndarray, positions: np.ndarray, logits: Tensor) -> np.ndarray:
        """The next token of each row: that of its prompt, or one drawn."""
        written = positions + 1 - self._prompts[rows]
        odds = self._odds
        drawn = draw(logits, self._points[rows, positions], odds.temperatures(written), odds.shares(written))
        return np.where(written < 0, self.tokens[rows, positions + 1], drawn)

    def _ended(self, rows: np.ndarray, positions: np.ndarray, following: np.ndarray) -> np.ndarray:
        self.tokens[rows, positions + 1] = following
        lengths = np.maximum(positions + 2, self._prompts[rows])
        self.lengths[rows] = lengths
        is_written = positions + 1 >= self._prompts[rows]
        return (is_written & np.isin(following, self._stops)) | (lengths >= self._most[rows])
