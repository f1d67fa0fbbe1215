"""A fidelity report in words."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["MEANINGS", "described", "number"]

MEANINGS = {
    "entries": "classes that a label names",
    "mass_kept": "the teacher's probability of these classes",
    "bias": "distance (L1) of the mean label from the mean distribution",
    "bias_by_chance": "what chance alone would give unbiased labels of this variance",
    "variance": "of the weights when drawn again, summed over classes",
    "squared_error": "of the weights, summed over classes",
    "kl": "of the label from the teacher, nats",
    "angle_degrees": "of the student's gradient from the exact one, one label",
    "norm_ratio": "length of the student's gradient over the exact one's, one label",
    "batch_angle_degrees": "the angle over the whole probe: what a batch sees",
    "batch_norm_ratio": "the length over the whole probe",
    "relative_error": "of the features, root mean square over theirs",
    "log_prob_error": "of the teacher's log-probabilities of its tokens, mean absolute, nats",
    "boundary_error": "of the probability that white space comes next, mean absolute",
    "saturated": "share of the features beyond the range of int8",
    "labels": "labels of the probe that were measured",
}
"""Each figure of `fidelity`, in the order of reading."""


def number(value: Any) -> str:
    """Three or four digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:#.4g}"


def described(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and meaning of every figure: bytes first, then the known ones, then any others."""
    sizes = figures.get("bytes_per_label", {})
    for column, size in sizes.items():
        what = "bytes a label of all the codec's columns" if column == "total" else f"bytes a label of column {column}"
        yield f"bytes.{column}", number(size), what
    for name, meaning in MEANINGS.items():
        if name in figures:
            yield name, number(figures[name]), meaning
    for name in figures.keys() - MEANINGS.keys() - {"bytes_per_label"}:
        yield name, number(figures[name]), ""
