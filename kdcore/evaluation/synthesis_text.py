"""What texts that a teacher wrote are like: how various, how long, how likely; and whether they have collapsed."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcore.synthesis.text.duplicates import runs_of, shingles

__all__ = ["collapse_notes", "distinct", "likest", "text_figures"]

_NGRAMS = (1, 2, 3, 4)
_QUANTILES = (0.05, 0.5, 0.95)
_WORDS = 3
# A store of stories has a distinct-4 of a third after a million tokens; of one text over and over it is near nothing.
_FEW_DISTINCT, _MANY_LEFT_OUT, _ONE_BEGINNING, _RUT = 0.02, 0.5, 0.99, 1.05


def distinct(texts: Sequence[np.ndarray], size: int) -> float:
    """Distinct runs of `size` tokens over all such runs of the texts, each int [T] (distinct-n; Li et al. 2016)."""
    runs = [runs_of(text, size) for text in texts if len(text) >= size]
    total = sum(len(part) for part in runs)
    return len(np.unique(np.concatenate(runs))) / total if total else 0.0


def likest(texts: Sequence[str], others: Sequence[str] | None = None) -> np.ndarray:
    """Likeness of each text to the likest of `others`, or to the likest other text of its own, float64 [R].

    Shared runs of three words over all of both texts (Jaccard): 1 for the same words, near 0 for another subject.
    """
    ours, theirs = (_presence(part) for part in (texts, texts if others is None else others))
    runs = np.array(sorted(set().union(*ours, *theirs)), np.uint64)
    first, second = (np.stack([np.isin(runs, part).astype(np.float32) for part in each]) for each in (ours, theirs))
    shared = first @ second.T
    likeness = shared / np.maximum(first.sum(1)[:, None] + second.sum(1) - shared, 1)
    if others is None:
        np.fill_diagonal(likeness, 0)
    return likeness.max(1).astype(np.float64)


def _presence(texts: Sequence[str]) -> list[np.ndarray]:
    words = [np.array([zlib.crc32(word.encode()) for word in text.split()] or [0]) for text in texts]
    return [shingles(each, _WORDS) for each in words]


def text_figures(
    texts: Sequence[np.ndarray], perplexities: np.ndarray, left_out: Mapping[str, int], finished: np.ndarray
) -> dict[str, Any]:
    """Figures as JSON of the texts that are kept, each int [T]; `perplexities` float [R] and `finished` bool [R] too.

    `left_out` counts the others, by reason. Quantiles are those at 5, 50 and 95%.
    """
    lengths = np.array([len(text) for text in texts] or [0])
    shares = [count for _, count in Counter(tuple(text[:2].tolist()) for text in texts).most_common()]
    return {
        "measured": len(texts),
        "tokens": int(lengths.sum()),
        "distinct": {str(size): round(distinct(texts, size), 4) for size in _NGRAMS},
        "length": [round(float(value), 1) for value in np.quantile(lengths, _QUANTILES)],
        "perplexity": [round(float(value), 3) for value in np.quantile(perplexities, _QUANTILES)] if len(texts) else [],
        "finished": round(float(finished.mean()), 4) if len(texts) else 0.0,
        "first_tokens": len(shares),
        "commonest_first_token": round(shares[0] / len(texts), 4) if shares else 0.0,
        "left_out": {reason: count for reason, count in left_out.items() if count},
    }


def collapse_notes(figures: Mapping[str, Any], kept: int, prompted: bool = False) -> tuple[str, ...]:
    """What is wrong with `kept` texts of these figures, in words; empty where nothing is.

    `prompted` ones may begin alike: so they were told to.
    """
    left_out = sum(figures["left_out"].values())
    notes: list[str] = []
    if not kept:
        return (f"collapsed: none of {left_out:,} texts is left: {_reasons(figures)}",)
    if left_out > _MANY_LEFT_OUT * (kept + left_out):
        notes.append(f"{left_out:,} of {kept + left_out:,} texts were left out: {_reasons(figures)}")
    if figures["distinct"]["4"] < _FEW_DISTINCT:
        notes.append(
            f"collapsed: repeated text, only {figures['distinct']['4']:.1%} of all runs of four tokens are distinct; "
            "raise synthesis.temperature or synthesis.top_p, or give prompts"
        )
    if figures["perplexity"][1] < _RUT:
        notes.append(
            f"collapsed: half of the texts have a perplexity below {figures['perplexity'][1]:.2f}, so that the teacher "
            "had next to nothing to choose: raise synthesis.temperature"
        )
    if figures["commonest_first_token"] > _ONE_BEGINNING and kept > 1 and not prompted:
        notes.append(
            f"{figures['commonest_first_token']:.1%} of the texts begin alike: give synthesis.prompts, or raise the "
            "temperature of the first positions"
        )
    return tuple(notes)


def _reasons(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in figures["left_out"].items())
