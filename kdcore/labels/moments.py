"""Mean and spread of stored features, channel by channel: of any part of a store, and joined to those of the whole."""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcore.errors import StoreError
from kdcore.labels.soft_labels import FeatureLabels

__all__ = ["LayerMoments", "Moments", "by_channel", "join_moments", "layer_moments", "moments_of_json"]


@dataclass(frozen=True)
class Moments:
    """Of `count` values in each of C channels the `mean`, and the sum of `squares` of what they differ from it by.

    float64 [C]; sums are of the values as they are stored.
    """

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Of values [count, C]."""
        wide = values.astype(np.float64)
        mean = wide.mean(0) if len(wide) else np.zeros(wide.shape[1])
        return cls(len(wide), mean, np.square(wide - mean).sum(0))

    def joined(self, other: "Moments") -> "Moments":
        """Of the values of both (Chan, Golub and LeVeque 1983)."""
        count = self.count + other.count
        if not count:
            return self
        gap, share = other.mean - self.mean, other.count / count
        squares = self.squares + other.squares + np.square(gap) * (self.count * share)
        return Moments(count, self.mean + gap * share, squares)

    @property
    def deviation(self) -> np.ndarray:
        """The standard deviation of each channel, float64 [C]; 0 of one that does not vary."""
        return np.sqrt(self.squares / max(1, self.count))

    def to_json(self) -> dict[str, Any]:
        """The count, and both arrays as base64 of little-endian float64."""
        packed = {name: base64.b64encode(getattr(self, name).astype("<f8")).decode() for name in ("mean", "squares")}
        return {"count": self.count, **packed}


LayerMoments = Mapping[str, Moments]
"""By the module path of a layer."""


def by_channel(shape: Sequence[int]) -> tuple[int, ...]:
    """What a channel's number [C] is reshaped to beside features [N, *shape]: maps [C, H, W], else the last is C."""
    return (-1, 1, 1) if len(shape) == 3 else (-1,)


def layer_moments(labels: FeatureLabels, shapes: Mapping[str, Sequence[int]]) -> LayerMoments:
    """Of features whose layers have these shapes."""
    found = {}
    for path, shape in shapes.items():
        values = labels.layer(path).numpy().reshape(labels.num_labels, *shape)
        rows = np.moveaxis(values, 1, -1) if len(shape) == 3 else values
        found[path] = Moments.of(rows.reshape(-1, rows.shape[-1]))
    return found


def join_moments(parts: Iterable[LayerMoments]) -> LayerMoments:
    """Of all parts, one at least, which are of the same layers, in their order."""
    first, *others = parts
    found = dict(first)
    for part in others:
        found = {path: one.joined(part[path]) for path, one in found.items()}
    return found


def moments_of_json(value: Any, where: str) -> LayerMoments:
    """What `Moments.to_json` made of each layer; StoreError names `where` for anything else."""
    try:
        return {str(path): _parsed(entry) for path, entry in value.items()}
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise StoreError(f"the statistics of features in {where} cannot be read ({error!r}): restore it") from error


def _parsed(entry: Mapping[str, Any]) -> Moments:
    mean, squares = (np.frombuffer(base64.b64decode(entry[name], validate=True), "<f8") for name in ("mean", "squares"))
    right = mean.shape == squares.shape and np.isfinite(mean).all() and (np.isfinite(squares) & (squares >= 0)).all()
    if type(entry["count"]) is not int or entry["count"] < 0 or not right:
        raise ValueError("a count, and as many squares as means, all finite, are needed")
    return Moments(entry["count"], mean, squares)
