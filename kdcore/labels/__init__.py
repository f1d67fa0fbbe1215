"""A soft label in memory, and the codecs that turn it into columns."""

from kdcore.labels.apart import ApartLabels
from kdcore.labels.checks import check_logits
from kdcore.labels.chunk_labels import ChunkLabels
from kdcore.labels.codec import Codec, Encoded, RowView, cut, join
from kdcore.labels.dense import DenseCodec
from kdcore.labels.feature import FeatureCodec
from kdcore.labels.opening_labels import OpeningLabels
from kdcore.labels.registry import codec_from_spec
from kdcore.labels.sampled import SampledCodec
from kdcore.labels.sampling import label_seeds
from kdcore.labels.soft_labels import (
    DenseLabels,
    FeatureLabels,
    SoftLabels,
    SparseLabels,
    TopKLabels,
    best_class,
    concat,
)
from kdcore.labels.span import SpanCodec
from kdcore.labels.span_labels import SpanLabels
from kdcore.labels.threshold import ThresholdCodec
from kdcore.labels.topk import TopKCodec

__all__ = [
    "ApartLabels",
    "ChunkLabels",
    "Codec",
    "DenseCodec",
    "DenseLabels",
    "Encoded",
    "FeatureCodec",
    "FeatureLabels",
    "OpeningLabels",
    "RowView",
    "SampledCodec",
    "SoftLabels",
    "SpanCodec",
    "SpanLabels",
    "SparseLabels",
    "ThresholdCodec",
    "TopKCodec",
    "TopKLabels",
    "best_class",
    "check_logits",
    "codec_from_spec",
    "concat",
    "cut",
    "join",
    "label_seeds",
]
