"""Labels of few classes near their entropy: an order of the classes and tables learnt on a probe, and rANS."""

from kdcore.labels.coder.blocks import Block, decode, encode
from kdcore.labels.coder.model import BLOCK_LABELS, MAX_DRAWS, CoderModel

__all__ = ["BLOCK_LABELS", "MAX_DRAWS", "Block", "CoderModel", "decode", "encode"]
