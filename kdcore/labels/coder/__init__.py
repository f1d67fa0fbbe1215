"""Labels of few classes near their entropy: an order of the classes and tables learnt on a probe, and rANS."""

from kdcore.labels.coder.blocks import decode, encode
from kdcore.labels.coder.layout import BLOCK_LABELS, Block
from kdcore.labels.coder.model import MAX_DRAWS, CoderModel

__all__ = ["BLOCK_LABELS", "MAX_DRAWS", "Block", "CoderModel", "decode", "encode"]
