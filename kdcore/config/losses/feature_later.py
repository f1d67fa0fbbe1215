"""Losses of features that came after the survey."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm


class ReviewTerm(FeatureTerm):
    """Deep features fused level by level (knowledge review)."""

    home: ClassVar[str] = "kdcore.losses.feature.review:Review"
    type: Literal["review_kd"] = "review_kd"
    width: int = Field(default=512, ge=1, description="the most channels of the fused maps")


class SimKDTerm(FeatureTerm):
    """The last maps through a bottleneck. Trains no head: add a loss of logits."""

    home: ClassVar[str] = "kdcore.losses.feature.sim_kd:SimKD"
    type: Literal["sim_kd"] = "sim_kd"
    factor: int = Field(default=2, ge=1, description="how much narrower than the teacher's maps the bottleneck is")


LaterFeatureTerm = ReviewTerm | SimKDTerm
