"""A soft label in memory, and the codecs that turn it into columns."""

from kdcore.labels.checks import check_logits
from kdcore.labels.codec import Codec, codec_from_spec, make_codec
from kdcore.labels.dense import DenseCodec
from kdcore.labels.soft_labels import DenseLabels, SoftLabels, TopKLabels, concat
from kdcore.labels.topk import TopKCodec

__all__ = [
    "Codec",
    "DenseCodec",
    "DenseLabels",
    "SoftLabels",
    "TopKCodec",
    "TopKLabels",
    "check_logits",
    "codec_from_spec",
    "concat",
    "make_codec",
]
