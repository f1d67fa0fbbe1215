"""Losses of logits: section 2.1 of the survey (arXiv 2006.05525), and those that came later."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import LossTerm


class CrossEntropyTerm(LossTerm):
    """Cross-entropy to the hard label, smoothed or not (row R6)."""

    home: ClassVar[str] = "kdcore.losses.response.cross_entropy:CrossEntropy"
    type: Literal["cross_entropy"] = "cross_entropy"
    smoothing: float = Field(default=0.0, ge=0, lt=1, description="mass that is spread evenly over all classes")


ResponseTerm = CrossEntropyTerm
