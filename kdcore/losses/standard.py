"""Features of teachers brought to mean 0 and deviation 1, channel by channel, by the statistics in their stores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import ConfigError
from kdcore.labels.moments import LayerMoments, by_channel
from kdcore.losses.method import LossInputs, Shape, Shapes

__all__ = ["Standard"]


class Standard:
    """Of the layers `paths` of one teacher, or of several, each by itself; a channel that never varies becomes 0.

    ConfigError where no store says what their mean and spread are.
    """

    def __init__(self, paths: Sequence[str], shapes: Shapes) -> None:
        known = shapes.moments or ({},) * len(shapes.teachers)
        self._of = [_scales(paths, *one) for one in zip(shapes.teachers, known, strict=True)]

    def __call__(self, inputs: LossInputs) -> LossInputs:
        """The same with the teachers' features standardised; their other layers as they are."""
        if not inputs.each:
            return replace(inputs, teacher=_standardised(inputs.teacher, self._of[0]))
        both = zip(inputs.each, self._of, strict=True)
        each = tuple(replace(one, features=_standardised(one.features, scales)) for one, scales in both)
        return replace(inputs, each=each)


_Scales = Mapping[str, tuple[Tensor, Tensor]]
"""Mean, and one over the deviation, of each layer; float32, of a shape that fits its features."""


def _scales(paths: Sequence[str], shapes: Mapping[str, Shape], moments: LayerMoments) -> _Scales:
    found = {}
    for path in paths:
        one, places = moments.get(path), by_channel(shapes[path])
        if one is None:
            raise ConfigError(
                f"`standardise_teacher` needs the mean and spread of the teacher's features at '{path}', which no "
                "label store says: learn from stored features (labels.codec.type feature, training.live_teacher "
                "false); for a store of an earlier version `kd store compact` gathers them"
            )
        spread = one.deviation
        factor = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 0)
        found[path] = tuple(torch.tensor(value, dtype=torch.float32).reshape(places) for value in (one.mean, factor))
    return found


def _standardised(features: Mapping[str, Tensor], scales: _Scales) -> dict[str, Tensor]:
    changed = {}
    for path, (mean, factor) in scales.items():
        given = features[path]
        changed[path] = (given - mean.to(given.device)) * factor.to(given.device)
    return {**features, **changed}
