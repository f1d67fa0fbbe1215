"""Statistics of a store's features: gathered while a shard is written, carried by its receipt, joined at the end."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.labels import Codec, FeatureCodec
from kdcore.labels.moments import LayerMoments, join_moments, layer_moments, moments_of_json
from kdcore.store.columns import list_offsets, list_values

__all__ = ["FEATURE_MOMENTS", "MomentsBuilder", "joined_moments", "packed_moments"]

FEATURE_MOMENTS = "feature_moments"
"""Where the manifest's `extra` has them."""
_COLUMN = "features"


class MomentsBuilder:
    """Gathers those of a shard from its batches, in their order; without a codec of features, none."""

    def __init__(self, codec: Codec | None) -> None:
        self._codec = codec if isinstance(codec, FeatureCodec) else None
        self._found = None if self._codec is None else _of_values(self._codec, np.empty(0, np.float16))

    def add(self, batch: pa.RecordBatch) -> None:
        """The next batch."""
        if self._codec is not None and self._found is not None:
            offsets = list_offsets(batch, _COLUMN)
            values = list_values(batch, _COLUMN)[offsets[0] : offsets[-1]]
            self._found = join_moments([self._found, _of_values(self._codec, values)])

    def packed(self) -> str:
        """As text; empty where there are no features."""
        return "" if self._found is None else json.dumps(_json_of(self._found))


def packed_moments(codec: Codec, batches: Iterable[pa.RecordBatch]) -> str:
    """Of all batches of a shard, as text; empty where there are no features."""
    builder = MomentsBuilder(codec)
    for batch in batches:
        builder.add(batch)
    return builder.packed()


def joined_moments(packed: Sequence[str]) -> dict[str, Any]:
    """What a manifest's `extra` has of shards whose receipts carry these; nothing where one carries none."""
    if not packed or not all(packed):
        return {}
    return {FEATURE_MOMENTS: _json_of(join_moments(moments_of_json(json.loads(text), "a receipt") for text in packed))}


def _of_values(codec: FeatureCodec, values: np.ndarray) -> LayerMoments:
    labels = codec.decode_columns({_COLUMN: values}, len(values) // codec.width)
    return layer_moments(labels, codec.shape_of())


def _json_of(moments: LayerMoments) -> dict[str, Any]:
    return {path: one.to_json() for path, one in moments.items()}
