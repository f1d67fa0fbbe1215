"""How samples are made where there is no data: a class for each method, told by its `type`."""

from typing import Annotated

from pydantic import Field

from kdcore.config.synthesis.base import SynthesisBase
from kdcore.config.synthesis.images import ImageSynthesis
from kdcore.config.synthesis.text import SelfGenerationConfig

__all__ = ["SelfGenerationConfig", "SynthesisBase", "SynthesisConfig"]

SynthesisConfig = Annotated[ImageSynthesis | SelfGenerationConfig, Field(discriminator="type")]
"""Any `synthesis` of a recipe."""
