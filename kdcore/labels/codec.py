"""How a soft label becomes columns: the codec protocol and its registry."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from torch import Tensor

from kdcore.config.labels import CodecConfig, TopKConfig
from kdcore.errors import StoreError
from kdcore.labels.dense import DenseCodec
from kdcore.labels.soft_labels import SoftLabels
from kdcore.labels.topk import TopKCodec

__all__ = ["Codec", "codec_from_spec", "make_codec"]


@runtime_checkable
class Codec(Protocol):
    """Encodes logits into flat columns and decodes them; a label takes `width` values of each column."""

    @property
    def name(self) -> str:
        """The `type` of the codec in configs and specs."""
        ...

    @property
    def num_classes(self) -> int:
        """V."""
        ...

    def spec(self) -> dict[str, Any]:
        """Everything that decoding needs, as JSON: type, parameters, num_classes."""
        ...

    def fields(self) -> list[pa.Field]:
        """The Arrow fields of the columns: flat lists, one list a row."""
        ...

    def widths(self) -> dict[str, int]:
        """Values per label, of each column."""
        ...

    def encode(self, logits: Tensor) -> dict[str, np.ndarray]:
        """Logits [N, V] float32 (checked: see `check_logits`) into flat columns of N * width values."""
        ...

    def decode(self, columns: Mapping[str, np.ndarray], num_labels: int) -> SoftLabels:
        """The labels of flat columns, renormalised in float32. LabelError if they cannot be distributions."""
        ...

    def bytes_per_label(self) -> float:
        """Payload bytes of one label."""
        ...


def make_codec(config: CodecConfig, num_classes: int) -> Codec:
    """The codec of a setting, for teachers of `num_classes` classes."""
    if isinstance(config, TopKConfig):
        return TopKCodec(k=min(config.k, num_classes), num_classes=num_classes)
    return DenseCodec(num_classes=num_classes)


def codec_from_spec(spec: Mapping[str, Any]) -> Codec:
    """The codec that wrote a store; StoreError if the spec is of an unknown type or malformed."""
    known = {"topk": ("k", "num_classes"), "dense": ("num_classes",)}
    kind = spec.get("type")
    fields = known.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise StoreError(f"unknown codec {kind!r}: this version reads {sorted(known)}; a newer kdcore wrote the store")
    values: dict[str, Any] = {field: spec.get(field) for field in fields}
    if set(spec) != {"type", *fields} or not all(type(value) is int and value > 0 for value in values.values()):
        raise StoreError(f"codec '{kind}' takes positive integers {list(fields)}, the store says {dict(spec)}")
    if kind == "topk" and spec["k"] > spec["num_classes"]:
        raise StoreError(f"codec 'topk' needs k <= num_classes, the store says {dict(spec)}")
    return TopKCodec(**values) if kind == "topk" else DenseCodec(**values)
