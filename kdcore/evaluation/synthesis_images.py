"""What images that a teacher made are like: of which classes, how unlike each other; whether they have collapsed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["collapse_notes", "image_figures", "nearest"]

_LOOKED_AT = 2000
_ONE_CLASS, _FLAT, _MANY_FLAT, _MANY_REPEATED, _ALIKE = 0.9, 4.0, 0.5, 0.1, 3.0


def nearest(images: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Root mean square distance of each image, uint8 [N, ...], to the nearest of `others`, or of the rest: float [N].

    In units of a pixel's 256 steps. Needs one other image at least.
    """
    ours = images.reshape(len(images), -1).astype(np.float32)
    theirs = ours if others is None else others.reshape(len(others), -1).astype(np.float32)
    squares = (ours**2).sum(1)[:, None] + (theirs**2).sum(1) - 2 * ours @ theirs.T
    if others is None:
        np.fill_diagonal(squares, np.inf)
    return np.sqrt(np.maximum(squares.min(1), 0) / ours.shape[1])


def image_figures(images: np.ndarray, targets: Sequence[int], num_classes: int) -> dict[str, Any]:
    """Figures as JSON of the classes that images were made for, and of some of them, uint8 [N, H, W, C]: up to 2,000.

    `balance` is the entropy of the classes over its largest value: 1 where all are as frequent. `repeated` counts
    images that another one equals but for the rounding of a step; `flat` those of one colour; `nearest` are the
    distances to the nearest other image, at 5, 50 and 95%, and `apart` the median distance of two.
    """
    counts = np.bincount(np.asarray(targets, int), minlength=num_classes)
    shares = counts[counts > 0] / max(1, counts.sum())
    rows = np.unique(np.linspace(0, len(images) - 1, min(len(images), _LOOKED_AT)).astype(int))
    looked = images[rows]
    figures: dict[str, Any] = {
        "images": int(counts.sum()),
        "per_class": {str(target): int(count) for target, count in enumerate(counts)},
        "balance": round(float(-(shares * np.log(shares)).sum() / np.log(max(2, num_classes))), 4),
        "flat": round(float((looked.std((1, 2)).max(1) < _FLAT).mean()), 4),
    }
    if len(looked) < 2:
        return figures
    distances = nearest(looked)
    pairs = looked[: len(looked) // 2 * 2].reshape(-1, 2, looked[0].size).astype(np.float32)
    apart = np.sqrt(((pairs[:, 0] - pairs[:, 1]) ** 2).mean(1))
    return {
        **figures,
        "repeated": round(float((distances < 1).mean()), 4),
        "nearest": [round(float(value), 2) for value in np.quantile(distances, (0.05, 0.5, 0.95))],
        "apart": round(float(np.median(apart)), 2),
    }


def collapse_notes(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with images of these figures, in words; empty where nothing is."""
    notes: list[str] = []
    per_class: Mapping[str, int] = figures["per_class"]
    target, most = max(per_class.items(), key=lambda entry: entry[1])
    if len(per_class) > 1 and most > _ONE_CLASS * figures["images"]:
        notes.append(
            f"collapsed: {most:,} of {figures['images']:,} images are of class {target}; raise synthesis.balance "
            "or lower other weights; of transfer, raise synthesis.candidates"
        )
    missing = [target for target, count in per_class.items() if not count]
    if missing and figures["images"] >= 10 * len(per_class):
        notes.append(f"no image is of class {', '.join(missing)}: students will not see what a teacher says of these")
    if figures["flat"] > _MANY_FLAT:
        notes.append(
            f"collapsed: {figures['flat']:.0%} of the images are constant; lower synthesis.total_variation, or "
            "synthesis.learning_rate"
        )
    elif figures.get("apart", np.inf) < _ALIKE:
        notes.append(
            f"collapsed: two images differ by {figures['apart']:g} of 256 steps a pixel, so that all are nearly one; "
            "lower synthesis.learning_rate, or raise synthesis.adversarial"
        )
    elif figures.get("repeated", 0) > _MANY_REPEATED:
        notes.append(
            f"collapsed: {figures['repeated']:.0%} of the images are repeated; make more units of fewer images "
            "(synthesis.unit_samples), or give a longer game (synthesis.steps)"
        )
    return tuple(notes)
