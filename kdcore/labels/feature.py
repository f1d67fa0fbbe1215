"""Codec `feature`: activations of chosen layers, as float16 or as int8 with one scale a channel.

The scales come from a probe: the largest magnitude of each channel there, with a quarter more room. What still lies
outside saturates; how much does is in the fidelity report.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from kdcore.errors import LabelError, StoreError
from kdcore.identity import digest_bytes
from kdcore.labels.codec import Encoded
from kdcore.labels.fixed import FixedWidth
from kdcore.labels.soft_labels import FeatureLabels

__all__ = ["FeatureCodec", "Layers", "Shape", "ShapedLayers"]

Layers = tuple[tuple[str, int], ...]
"""Module path and width of each layer, in the order of their channels."""
Shape = tuple[int, ...]
"""Of one label's features, without the label."""
ShapedLayers = tuple[tuple[str, Shape], ...]
"""The same with the shape of one label's features, whose product is the width."""
_ROOM = 1.25


@dataclass(frozen=True)
class FeatureCodec(FixedWidth):
    """One column, `features` float16 or int8, all channels of a label side by side."""

    layers: Layers
    scales: np.ndarray | None = field(default=None, repr=False, compare=False)
    """float32 [D]: what one step of int8 is worth; None keeps float16."""
    shapes: tuple[Shape, ...] | None = None
    """Of one label's features, layer by layer, such as (C, H, W); None: (width,) each."""

    @classmethod
    def of_shapes(cls, layers: ShapedLayers) -> "FeatureCodec":
        """float16, of layers with these shapes."""
        shapes = tuple(shape for _, shape in layers)
        flat = all(len(shape) == 1 for shape in shapes)
        return cls(tuple((path, math.prod(shape)) for path, shape in layers), None, None if flat else shapes)

    @classmethod
    def learn(cls, layers: Layers, probe: Tensor, shapes: tuple[Shape, ...] | None = None) -> "FeatureCodec":
        """int8 with the scales of a probe [N, D]."""
        _check_finite(probe)
        largest = probe.abs().amax(0).float().cpu().numpy() * _ROOM / 127
        return cls(layers, np.where(largest > 0, largest, 1.0).astype(np.float32), shapes)

    def shape_of(self) -> dict[str, Shape]:
        """The shape of each layer's features by its module path."""
        shapes = self.shapes or tuple((width,) for _, width in self.layers)
        return {path: shape for (path, _), shape in zip(self.layers, shapes, strict=True)}

    def __eq__(self, other: object) -> bool:
        """Of the same layers and scales."""
        return isinstance(other, FeatureCodec) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(self.layers)

    @property
    def name(self) -> str:
        """`feature`."""
        return "feature"

    @property
    def num_classes(self) -> int:
        """0: features are not distributions."""
        return 0

    @property
    def width(self) -> int:
        """Channels of all layers."""
        return sum(width for _, width in self.layers)

    def state(self) -> bytes | None:
        """The scales."""
        return None if self.scales is None else save({"scales": self.scales})

    @classmethod
    def with_state(cls, layers: Layers, state: bytes | None, shapes: tuple[Shape, ...] | None = None) -> "FeatureCodec":
        """The codec of stored scales; StoreError when they are not one positive number a channel."""
        if state is None:
            return cls(layers, None, shapes)
        try:
            scales = load(state)["scales"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the feature scales in the manifest cannot be read ({error}): restore it") from error
        codec = cls(layers, scales, shapes)
        right = scales.shape == (codec.width,) and scales.dtype == np.float32
        if not right or not (np.isfinite(scales) & (scales > 0)).all():
            raise StoreError(f"{codec.width} positive feature scales are needed, the manifest has {scales.shape}")
        return codec

    def spec(self) -> dict[str, Any]:
        """Type, layers with their widths, their shapes if they are no vectors, and the scales' digest (or null)."""
        spec = {
            "type": self.name,
            "layers": [list(layer) for layer in self.layers],
            "scales": None if self.scales is None else digest_bytes(self.scales.tobytes()),
        }
        return spec if self.shapes is None else {**spec, "shapes": [list(shape) for shape in self.shapes]}

    def limits(self) -> np.ndarray:
        """The largest magnitude of each channel that int8 keeps, float32 [D]."""
        assert self.scales is not None
        return 127 * self.scales

    def fields(self) -> list[pa.Field]:
        """One flat list a row."""
        return [pa.field("features", pa.list_(pa.float16() if self.scales is None else pa.int8()))]

    def widths(self) -> dict[str, int]:
        """D channels."""
        return {"features": self.width}

    def bytes_per_label(self) -> float:
        """One or two bytes a channel."""
        return float(self.width * (2 if self.scales is None else 1))

    def encode(self, outputs: Tensor, seeds: np.ndarray) -> Encoded:
        """Features [N, D], rounded to nearest; LabelError when they are not finite, or too large for float16."""
        if outputs.ndim != 2 or outputs.shape[1] != self.width:
            raise LabelError(f"features [N, {self.width}] of {list(self.layers)} are needed, got {list(outputs.shape)}")
        _check_finite(outputs)
        if self.scales is not None:
            steps = outputs.float() / torch.from_numpy(self.scales).to(outputs.device)
            return {"features": steps.round().clamp(-127, 127).to(torch.int8).cpu().numpy().ravel()}
        halves = outputs.half()
        if not bool(torch.isfinite(halves).all()):
            raise LabelError("features above 65,504 do not fit float16: set labels.codec.dtype: int8")
        return {"features": halves.cpu().numpy().ravel()}

    def decode_columns(self, columns: Mapping[str, np.ndarray], num_labels: int) -> FeatureLabels:
        """A flat column into features [N, D] float32."""
        values = columns["features"].astype(np.float32).reshape(num_labels, self.width)
        if self.scales is not None:
            values *= self.scales
        return FeatureLabels(torch.from_numpy(values), self.layers)


def _check_finite(features: Tensor) -> None:
    if not bool(torch.isfinite(features).all()):
        raise LabelError("features must be finite, but the teacher gave NaN or infinity: set teacher.dtype: float32")
