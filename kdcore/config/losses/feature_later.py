"""Losses of features that came after the survey."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm, VectorTerm


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


class ClassAttentionTerm(FeatureTerm):
    """Where each class is seen (class attention transfer)."""

    home: ClassVar[str] = "kdcore.losses.feature.class_attention:ClassAttention"
    type: Literal["cat_kd"] = "cat_kd"
    head: str | None = Field(
        default=None,
        description="module path of the student's linear head, whose weight makes class maps of those at `at`; "
        "default: they are class maps",
    )
    teacher_head: str | None = Field(
        default=None, description="the same in the teacher, which is live then; default: its maps are class maps"
    )
    resolution: int = Field(default=2, ge=1, description="side of the averaged maps")
    normalise: bool = Field(default=True, description="whether each map is brought to length one")


class MaskedGenerativeTerm(FeatureTerm):
    """The teacher's maps from a part of the student's (masked generative distillation, the other MGD)."""

    home: ClassVar[str] = "kdcore.losses.feature.masked_generative:MaskedGenerative"
    type: Literal["masked_generative"] = "masked_generative"
    ratio: float = Field(default=0.15, ge=0, lt=1, description="share that is masked")
    masks: Literal["channels", "places"] = Field(default="channels", description="what is masked")


class WassersteinTerm(FeatureTerm):
    """Maps as samples of Gaussians (WKD-F)."""

    home: ClassVar[str] = "kdcore.losses.feature.wasserstein:Wasserstein"
    type: Literal["wkd_feature"] = "wkd_feature"
    grid: int = Field(default=1, ge=1, description="cells along each side of the maps")
    mean_ratio: float = Field(default=4.0, ge=0, description="weight of the means against the deviations")


class SimpleRecipeTerm(VectorTerm):
    """Pooled features after BatchNorm, the logarithm of a power's sum (SRD)."""

    home: ClassVar[str] = "kdcore.losses.feature.simple_recipe:SimpleRecipe"
    type: Literal["srd"] = "srd"
    power: float = Field(default=4.0, ge=1, description="of absolute differences")


class KnowledgeAdaptationTerm(FeatureTerm):
    """Translated features and the affinity of places, of dense prediction (KTAAD)."""

    home: ClassVar[str] = "kdcore.losses.feature.knowledge_adaptation:KnowledgeAdaptation"
    type: Literal["knowledge_adaptation"] = "knowledge_adaptation"
    rate: float = Field(default=0.5, gt=0, le=4, description="channels of the code for each of the teacher")
    affinity: float = Field(default=1.0, ge=0, description="weight of the affinity of places")
    reconstruction: float = Field(
        default=1.0, ge=0, description="weight of the autoencoder's own loss, which the student does not see"
    )


class KernelAlignmentTerm(VectorTerm):
    """Which samples are alike (linear CKA)."""

    home: ClassVar[str] = "kdcore.losses.feature.kernel_alignment:KernelAlignment"
    type: Literal["cka"] = "cka"


LaterFeatureTerm = (
    ReviewTerm
    | SimKDTerm
    | ClassAttentionTerm
    | MaskedGenerativeTerm
    | WassersteinTerm
    | SimpleRecipeTerm
    | KnowledgeAdaptationTerm
    | KernelAlignmentTerm
)
