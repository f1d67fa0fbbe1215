"""Losses of relations between samples or layers: section 2.3 of the survey (arXiv 2006.05525), and later ones."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm

_HOME = "kdcore.losses.relation."


class RelationalTerm(FeatureTerm):
    """RKD: distances between samples, and angles of three (row L7)."""

    home: ClassVar[str] = _HOME + "relational:Relational"
    type: Literal["rkd"] = "rkd"
    distance_weight: float = Field(default=25.0, ge=0, description="of the distances")
    angle_weight: float = Field(default=50.0, ge=0, description="of the angles; 0 saves their memory")


class SimilarityPreservingTerm(FeatureTerm):
    """SP: which samples of a batch are alike (row L9)."""

    home: ClassVar[str] = _HOME + "similarity_preserving:SimilarityPreserving"
    type: Literal["similarity_preserving"] = "similarity_preserving"


class CorrelationCongruenceTerm(FeatureTerm):
    """CCKD: correlations between samples (row L10)."""

    home: ClassVar[str] = _HOME + "correlation_congruence:CorrelationCongruence"
    type: Literal["cckd"] = "cckd"
    form: Literal["kernel", "short"] = Field(
        default="kernel", description="the paper's Gaussian kernel, or the short form of RepDistiller's tables"
    )
    gamma: float = Field(default=0.4, gt=0, description="of the Gaussian kernel")
    order: int = Field(default=2, ge=1, le=8, description="of its Taylor series")
    dimension: int = Field(default=128, ge=1, description="of the embeddings that the short form compares")


class ProbabilisticTerm(FeatureTerm):
    """PKT: how likely samples are neighbours (row L12)."""

    home: ClassVar[str] = _HOME + "probabilistic:Probabilistic"
    type: Literal["pkt"] = "pkt"


class ContrastiveRepresentationTerm(FeatureTerm):
    """CRD: that two embeddings are of the same sample (row L15)."""

    home: ClassVar[str] = _HOME + "contrastive_representation:ContrastiveRepresentation"
    type: Literal["crd"] = "crd"
    contrast: Literal["memory", "batch"] = Field(
        default="memory", description="negatives from a memory of the training set, or the other samples of the batch"
    )
    dimension: int = Field(default=128, ge=1, description="of the embeddings")
    temperature: float = Field(default=0.07, gt=0)
    negatives: int = Field(default=16384, ge=1, description="drawn from the memory for each sample")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="what stays of a row of the memory")


class ChannelCorrelationTerm(FeatureTerm):
    """ICKD: how the channels of a layer go together (ICCV 2021)."""

    home: ClassVar[str] = _HOME + "channel_correlation:ChannelCorrelation"
    type: Literal["ickd"] = "ickd"


RelationTerm = (
    RelationalTerm
    | SimilarityPreservingTerm
    | CorrelationCongruenceTerm
    | ProbabilisticTerm
    | ContrastiveRepresentationTerm
    | ChannelCorrelationTerm
)
