"""From a spec to the codec that wrote it."""

from collections.abc import Mapping
from typing import Any

from kdcore.errors import StoreError
from kdcore.labels.codec import Codec
from kdcore.labels.dense import DenseCodec
from kdcore.labels.topk import TopKCodec

__all__ = ["codec_from_spec"]

_KNOWN: dict[str, tuple[str, ...]] = {
    "topk": ("k", "num_classes"),
    "dense": ("bits", "num_classes"),
}


def codec_from_spec(spec: Mapping[str, Any], state: bytes | None = None) -> Codec:
    """The codec that wrote a store; StoreError if the spec is of an unknown type, malformed, or not of this state."""
    kind = spec.get("type")
    fields = _KNOWN.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise StoreError(f"unknown codec {kind!r}: this version reads {sorted(_KNOWN)}; a newer kdcore wrote the store")
    values: dict[str, Any] = {field: spec.get(field) for field in fields}
    if set(spec) != {"type", *fields} or not all(type(value) is int and value > 0 for value in values.values()):
        raise StoreError(f"codec '{kind}' takes positive integers {list(fields)}, the store says {dict(spec)}")
    if kind == "topk" and spec["k"] > spec["num_classes"]:
        raise StoreError(f"codec 'topk' needs k <= num_classes, the store says {dict(spec)}")
    return TopKCodec(**values) if kind == "topk" else DenseCodec(**values)
