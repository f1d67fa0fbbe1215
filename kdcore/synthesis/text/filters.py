"""Which texts are kept: a verdict on each, in the order in which they were written."""

from dataclasses import dataclass, field

import numpy as np

from kdcore.config.synthesis.text import TextFilters
from kdcore.synthesis.text.duplicates import NearDuplicates, shingles

__all__ = ["REASONS", "TextSieve", "perplexity", "repetition"]

REASONS = ("short", "unfinished", "repetitive", "too likely", "unlikely", "duplicate", "near duplicate")
"""Why a text is left out, in the order in which it is asked."""

_RUN = 4


def perplexity(log_probs: np.ndarray) -> float:
    """The perplexity of a text under the teacher, of the log-probabilities [T - 1] of its next tokens."""
    return float(np.exp(-log_probs.astype(np.float64).mean())) if len(log_probs) else 1.0


def repetition(tokens: np.ndarray) -> float:
    """Share of a text's runs of four tokens that occur in it before: near one for a loop."""
    runs = len(tokens) - _RUN + 1
    return 1 - len(shingles(tokens, _RUN)) / runs if runs > 1 else 0.0


@dataclass
class TextSieve:
    """Asks of one text after the other why it should not be kept; `counts` are those left out, by reason."""

    filters: TextFilters
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    _keys: set[bytes] = field(default_factory=set)
    _near: NearDuplicates | None = None

    def __post_init__(self) -> None:
        if self.filters.near_duplicates is not None:
            self._near = NearDuplicates(self.filters.near_duplicates, self.filters.shingle_tokens)

    def refuses(self, key: bytes, tokens: np.ndarray, log_probs: np.ndarray, finished: bool) -> str | None:
        """Why a text is left out, None for one that is kept.

        `key` is that of its words, `tokens` int [T], `log_probs` [T - 1] the teacher's of its next tokens.
        """
        reason = self._flaw(tokens, log_probs, finished) or self._seen(key, tokens)
        if reason is not None:
            self.counts[reason] += 1
        return reason

    def _flaw(self, tokens: np.ndarray, log_probs: np.ndarray, finished: bool) -> str | None:
        asked, found = self.filters, perplexity(log_probs)
        if len(tokens) < max(2, asked.min_tokens):
            return "short"
        if asked.unfinished == "drop" and not finished:
            return "unfinished"
        if repetition(tokens) > asked.max_repetition:
            return "repetitive"
        if asked.min_perplexity is not None and found < asked.min_perplexity:
            return "too likely"
        if asked.max_perplexity is not None and found > asked.max_perplexity:
            return "unlikely"
        return None

    def _seen(self, key: bytes, tokens: np.ndarray) -> str | None:
        if key in self._keys:
            return "duplicate"
        self._keys.add(key)
        return "near duplicate" if self._near is not None and self._near.add(tokens) is not None else None
