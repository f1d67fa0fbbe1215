"""Losses of relations between samples or layers: section 2.3 of the survey (arXiv 2006.05525), and later ones."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from kdcore.config.losses.base import FeatureTerm, LossTerm, VectorTerm

_HOME = "kdcore.losses.relation."


class LayersTerm(FeatureTerm):
    """A loss of relations between layers of one network."""

    at: tuple[str, ...] = Field(
        min_length=2, description="module paths in the student, in the order of the network; each goes with the next"
    )


class FlowTerm(LayersTerm):
    """FSP: how features flow from layer to layer (row L1)."""

    home: ClassVar[str] = _HOME + "flow:Flow"
    type: Literal["fsp"] = "fsp"


class SingularVectorsTerm(LayersTerm):
    """How the leading directions of layers lie to each other (row L2)."""

    home: ClassVar[str] = _HOME + "singular_vectors:SingularVectors"
    type: Literal["singular_vectors"] = "singular_vectors"
    vectors: int = Field(default=1, ge=1, description="of the teacher's layers, the leading ones")


class TripletOrderTerm(VectorTerm):
    """Which of two samples is nearer to a third (row L3)."""

    home: ClassVar[str] = _HOME + "triplet_order:TripletOrder"
    type: Literal["triplet_order"] = "triplet_order"
    margin: float = Field(default=1.0, ge=0, description="of squared distances")


class DarkRankTerm(VectorTerm):
    """DarkRank: in which order the other samples are like one (row L5)."""

    home: ClassVar[str] = _HOME + "dark_rank:DarkRank"
    type: Literal["dark_rank"] = "dark_rank"
    form: Literal["hard", "soft"] = Field(
        default="hard", description="the likelihood of the teacher's order, or the divergence over all orders"
    )
    candidates: int = Field(default=4, ge=2, description="samples that are ranked; at most 6 for the soft form")
    alpha: float = Field(default=3.0, gt=0, description="scale of scores")
    beta: float = Field(default=3.0, ge=1, description="power of distances")

    @model_validator(mode="after")
    def _few_orders(self) -> "DarkRankTerm":
        if self.form == "soft" and self.candidates > 6:
            raise ValueError(
                f"the soft form compares all orders of the candidates, {self.candidates}! of them: set `candidates` to "
                "6 or less, or `form: hard`"
            )
        return self


class AttentionGraphTerm(LayersTerm):
    """MHGD: how samples of one layer attend to those of the next (row L6)."""

    home: ClassVar[str] = _HOME + "attention_graph:AttentionGraph"
    type: Literal["mhgd"] = "mhgd"
    heads: int = Field(default=8, ge=1, description="of attention")


class RelationalTerm(VectorTerm):
    """RKD: distances between samples, and angles of three (row L7)."""

    home: ClassVar[str] = _HOME + "relational:Relational"
    type: Literal["rkd"] = "rkd"
    distance_weight: float = Field(default=25.0, ge=0, description="of the distances")
    angle_weight: float = Field(default=50.0, ge=0, description="of the angles; 0 saves their memory")


class InstanceGraphTerm(LayersTerm, VectorTerm):
    """IRG: samples as a graph at each layer, and how it changes (row L8)."""

    home: ClassVar[str] = _HOME + "instance_graph:InstanceGraph"
    type: Literal["irg"] = "irg"
    vertex_weight: float = Field(default=0.1, ge=0, description="of the logits")
    edge_weight: float = Field(default=5.0, ge=0, description="of distances between samples")
    movement_weight: float = Field(default=5.0, ge=0, description="of distances between layers")


class SimilarityPreservingTerm(VectorTerm):
    """SP: which samples of a batch are alike (row L9)."""

    home: ClassVar[str] = _HOME + "similarity_preserving:SimilarityPreserving"
    type: Literal["similarity_preserving"] = "similarity_preserving"


class CorrelationCongruenceTerm(VectorTerm):
    """CCKD: correlations between samples (row L10)."""

    home: ClassVar[str] = _HOME + "correlation_congruence:CorrelationCongruence"
    type: Literal["cckd"] = "cckd"
    form: Literal["kernel", "short"] = Field(
        default="kernel", description="the paper's Gaussian kernel, or the short form of RepDistiller's tables"
    )
    gamma: float = Field(default=0.4, gt=0, description="of the Gaussian kernel")
    order: int = Field(default=2, ge=1, le=8, description="of its Taylor series")
    dimension: int = Field(default=128, ge=1, description="of the embeddings that the short form compares")


class LearningMetricsTerm(VectorTerm):
    """Embeddings that are alike, or as far from each other (row L11)."""

    home: ClassVar[str] = _HOME + "learning_metrics:LearningMetrics"
    type: Literal["learning_metrics"] = "learning_metrics"
    absolute_weight: float = Field(default=0.0, ge=0, description="of the distance to the teacher's embedding")
    relative_weight: float = Field(default=1.0, ge=0, description="of differences between distances of samples")


class ProbabilisticTerm(VectorTerm):
    """PKT: how likely samples are neighbours (row L12)."""

    home: ClassVar[str] = _HOME + "probabilistic:Probabilistic"
    type: Literal["pkt"] = "pkt"


class InformationFlowTerm(VectorTerm):
    """PKT at several layers, those before the last with a weight that falls (row L13)."""

    home: ClassVar[str] = _HOME + "information_flow:InformationFlow"
    type: Literal["information_flow"] = "information_flow"
    initial_weight: float = Field(default=100.0, ge=0, description="of all layers but the last, which has 1")
    decay: float = Field(default=0.7, gt=0, le=1, description="factor of that weight, `decays` times over the run")
    decays: int = Field(default=50, ge=0, description="how often the weight falls")


class LocalityTerm(VectorTerm):
    """LP: what the teacher has near stays near (row L14)."""

    home: ClassVar[str] = _HOME + "locality:Locality"
    type: Literal["locality"] = "locality"
    neighbours: int = Field(default=5, ge=1, description="of each sample, the teacher's nearest in the batch")
    width: float = Field(default=1.0, gt=0, description="of the teacher's squared distances, in their weights")


class ContrastiveRepresentationTerm(VectorTerm):
    """CRD: that two embeddings are of the same sample (row L15)."""

    home: ClassVar[str] = _HOME + "contrastive_representation:ContrastiveRepresentation"
    type: Literal["crd"] = "crd"
    contrast: Literal["memory", "batch"] = Field(
        default="memory", description="negatives from a memory of the training set, or the other samples of the batch"
    )
    dimension: int = Field(default=128, ge=1, description="of the embeddings")
    temperature: float = Field(default=0.07, gt=0, description="that cosines are divided by")
    negatives: int = Field(default=16384, ge=1, description="drawn from the memory for each sample")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="what stays of a row of the memory")


class SelfSupervisionTerm(FeatureTerm):
    """SSKD: what turned views are of (row L16)."""

    home: ClassVar[str] = _HOME + "self_supervision:SelfSupervision"
    type: Literal["sskd"] = "sskd"
    at: tuple[str, ...] = Field(min_length=1, max_length=1, description="module path in the student, of one layer")
    contrast_weight: float = Field(default=10.0, ge=0, description="of similarities between views and images")
    contrast_temperature: float = Field(default=0.5, gt=0, description="of similarities")
    contrast_share: float = Field(
        default=0.75, ge=0, le=1, description="kept of the views that the teacher takes for another image's"
    )
    view_weight: float = Field(default=2.7, ge=0, description="of the logits of views")
    view_temperature: float = Field(default=4.0, gt=0, description="of the logits of views")
    view_share: float = Field(
        default=1.0, ge=0, le=1, description="kept of the views that the teacher classifies wrongly"
    )


class LocalCorrelationTerm(FeatureTerm):
    """LKD: how places of images are alike (row L17)."""

    home: ClassVar[str] = _HOME + "local_correlation:LocalCorrelation"
    type: Literal["local_correlation"] = "local_correlation"
    grid: int = Field(default=2, ge=1, description="places along each side of a map")


class PairwiseAffinityTerm(FeatureTerm):
    """How alike the places of one map are (row P3)."""

    home: ClassVar[str] = _HOME + "pairwise_affinity:PairwiseAffinity"
    type: Literal["pairwise_affinity"] = "pairwise_affinity"
    patch: float = Field(default=0.5, gt=0, le=1, description="height and width of a place, of the map's")


class RankingTerm(LossTerm):
    """What the teacher puts first is as good as chosen (row P18)."""

    home: ClassVar[str] = _HOME + "ranking:Ranking"
    type: Literal["ranking"] = "ranking"
    items: int = Field(default=10, ge=1, description="of the teacher's ranking, the first ones")
    sharpness: float = Field(default=1.0, gt=0, description="how far down the ranking weights reach")
    discrepancy: float | None = Field(
        default=0.1, gt=0, description="how sharply items weigh more that the student ranks too low; null: not at all"
    )
    discrepancy_after: float = Field(default=0.0, ge=0, le=1, description="share of the steps before that begins")


class ChannelCorrelationTerm(FeatureTerm):
    """ICKD: how the channels of a layer go together (ICCV 2021)."""

    home: ClassVar[str] = _HOME + "channel_correlation:ChannelCorrelation"
    type: Literal["ickd"] = "ickd"


RelationTerm = (
    FlowTerm
    | SingularVectorsTerm
    | TripletOrderTerm
    | DarkRankTerm
    | AttentionGraphTerm
    | RelationalTerm
    | InstanceGraphTerm
    | SimilarityPreservingTerm
    | CorrelationCongruenceTerm
    | LearningMetricsTerm
    | ProbabilisticTerm
    | InformationFlowTerm
    | LocalityTerm
    | ContrastiveRepresentationTerm
    | SelfSupervisionTerm
    | LocalCorrelationTerm
    | PairwiseAffinityTerm
    | RankingTerm
    | ChannelCorrelationTerm
)
