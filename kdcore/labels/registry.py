"""From a spec, and what was learnt, to the codec that wrote a store."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from kdcore.errors import StoreError
from kdcore.labels.codec import Codec
from kdcore.labels.coder import CoderModel
from kdcore.labels.dense import DenseCodec
from kdcore.labels.feature import FeatureCodec
from kdcore.labels.sampled import SampledCodec
from kdcore.labels.span import SpanCodec
from kdcore.labels.threshold import ThresholdCodec
from kdcore.labels.topk import TopKCodec

__all__ = ["codec_from_spec"]

_FIELDS: dict[str, tuple[str, ...]] = {
    "topk": ("k", "num_classes"),
    "dense": ("bits", "num_classes"),
    "threshold": ("coder", "draws", "num_classes", "seed"),
    "sampled": ("coder", "draws", "num_classes", "seed"),
    "feature": ("layers", "scales"),
    "span": ("boundary",),
}
_OPTIONAL = {"topk": ("bits",), "feature": ("shapes",)}
_LEARNT = {"threshold": "coder", "sampled": "coder", "feature": "scales"}


def codec_from_spec(spec: Mapping[str, Any], state: bytes | None = None) -> Codec:
    """The codec that wrote a store; StoreError if the spec is of an unknown type, malformed, or not of this state."""
    kind = spec.get("type")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise StoreError(f"unknown codec {kind!r}: this version reads {sorted(_FIELDS)}; a newer one wrote the store")
    if set(spec) - set(_OPTIONAL.get(kind, ())) != {"type", *_FIELDS[kind]}:
        raise StoreError(f"codec '{kind}' has exactly {list(_FIELDS[kind])}, the store says {dict(spec)}")
    _check_numbers(spec)
    codec = _BUILDERS[kind](spec, state)
    _check_learnt(codec, spec, state)
    return codec


def _check_numbers(spec: Mapping[str, Any]) -> None:
    for name in ("k", "num_classes", "bits", "draws", "seed"):
        if name in spec and (type(spec[name]) is not int or spec[name] < (name != "seed")):
            raise StoreError(f"codec '{spec['type']}' takes a positive integer '{name}', the store says {dict(spec)}")


def _check_learnt(codec: Codec, spec: Mapping[str, Any], state: bytes | None) -> None:
    name = _LEARNT.get(spec["type"], "")
    wanted, found = spec.get(name), codec.spec().get(name)
    if wanted != found or (state is not None and found is None):
        raise StoreError(
            f"codec '{spec['type']}' was written with learnt tables {wanted}, the store holds {found or 'others'}: "
            "files of another store were copied here, or the manifest was altered"
        )


def _dense(spec: Mapping[str, Any], _: bytes | None) -> DenseCodec:
    if spec["bits"] not in (8, 16):
        raise StoreError(f"codec 'dense' has 8 or 16 bits a class, the store says {dict(spec)}")
    return DenseCodec(spec["num_classes"], spec["bits"])


def _feature(spec: Mapping[str, Any], state: bytes | None) -> FeatureCodec:
    layers = _layers(spec)
    return FeatureCodec.with_state(layers, state, _shapes(spec, layers))


def _topk(spec: Mapping[str, Any], _: bytes | None) -> TopKCodec:
    if spec["k"] > spec["num_classes"]:
        raise StoreError(f"codec 'topk' needs k <= num_classes, the store says {dict(spec)}")
    # 16 bits are said by saying nothing: a spec has one spelling, since it is compared and digested.
    if spec.get("bits", 8) != 8:
        raise StoreError(f"codec 'topk' has 8 bits, or no 'bits', the store says {dict(spec)}")
    return TopKCodec(spec["k"], spec["num_classes"], spec.get("bits", 16))


def _layers(spec: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    layers = spec["layers"]
    right = isinstance(layers, list) and len(layers) > 0
    for layer in layers if right else []:
        right = right and isinstance(layer, list) and [type(part) for part in layer] == [str, int] and layer[1] > 0
    if not right:
        raise StoreError(f"codec 'feature' has a list of [module path, width], the store says {dict(spec)}")
    return tuple((name, width) for name, width in layers)


def _shapes(spec: Mapping[str, Any], layers: tuple[tuple[str, int], ...]) -> tuple[tuple[int, ...], ...] | None:
    if "shapes" not in spec:
        return None
    shapes: Any = spec["shapes"]
    right = isinstance(shapes, list) and len(shapes) == len(layers)
    for shape, (_, width) in zip(shapes, layers, strict=True) if right else []:
        whole = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
        right = right and whole and math.prod(shape) == width
    if not right:
        raise StoreError(f"codec 'feature' has a shape of each layer's width, the store says {dict(spec)}")
    return tuple(tuple(shape) for shape in shapes)


def _span(spec: Mapping[str, Any], _: bytes | None) -> SpanCodec:
    codec = SpanCodec()
    if dict(spec) != codec.spec():
        raise StoreError(f"codec 'span' is {codec.spec()}, the store says {dict(spec)}")
    return codec


def _counts(spec: Mapping[str, Any], state: bytes | None) -> Codec:
    if state is None:
        raise StoreError(f"codec '{spec['type']}' needs its learnt tables, which the store does not hold")
    model = CoderModel.from_bytes(state)
    if (model.draws, model.num_classes) != (spec["draws"], spec["num_classes"]):
        raise StoreError(
            f"the learnt tables are of {model.draws} draws over {model.num_classes} classes, the store says "
            f"{dict(spec)}"
        )
    return (ThresholdCodec if spec["type"] == "threshold" else SampledCodec)(model, spec["seed"])


_BUILDERS: dict[str, Callable[[Mapping[str, Any], bytes | None], Codec]] = {
    "topk": _topk,
    "dense": _dense,
    "feature": _feature,
    "threshold": _counts,
    "sampled": _counts,
    "span": _span,
}
