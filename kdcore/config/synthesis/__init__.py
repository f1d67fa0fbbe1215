"""How samples are made where there is no data: a class for each method, told by its `type`."""

from kdcore.config.synthesis.base import SynthesisBase

__all__ = ["SynthesisBase", "SynthesisConfig"]

SynthesisConfig = SynthesisBase
"""Any `synthesis` of a recipe."""
