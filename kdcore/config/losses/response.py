"""Losses of logits: section 2.1 of the survey (arXiv 2006.05525), and those that came later."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm, LossTerm, VectorTerm


class CrossEntropyTerm(LossTerm):
    """Cross-entropy to the hard label, smoothed or not (row R6)."""

    home: ClassVar[str] = "kdcore.losses.response.cross_entropy:CrossEntropy"
    type: Literal["cross_entropy"] = "cross_entropy"
    smoothing: float = Field(default=0.0, ge=0, lt=1, description="mass that is spread evenly over all classes")


class VirtualTeacherTerm(LossTerm):
    """Tf-KD's regularisation by a teacher made by hand (row D5)."""

    home: ClassVar[str] = "kdcore.losses.response.virtual_teacher:VirtualTeacher"
    type: Literal["virtual_teacher"] = "virtual_teacher"
    correct: float = Field(
        default=0.99, gt=0, lt=1, description="probability of the right class; the others share the rest"
    )
    temperature: float = Field(default=20.0, gt=0, description="of the virtual teacher alone")


class ClassWiseTerm(LossTerm):
    """CS-KD: two samples of one class are to have one distribution (row D7)."""

    home: ClassVar[str] = "kdcore.losses.response.class_wise:ClassWise"
    type: Literal["cs_kd"] = "cs_kd"
    temperature: float = Field(default=4.0, gt=0, description="of both samples; the loss is multiplied by its square")


class LogitTerm(LossTerm):
    """A loss of the logits of both networks."""

    standardise: bool = Field(
        default=False,
        description="logit standardisation (arXiv 2403.01427): the logits of each sample, of both networks, brought to "
        "mean 0 and deviation 1 before the loss",
    )


class LogitsTerm(LogitTerm):
    """Regression of logits (row R1)."""

    home: ClassVar[str] = "kdcore.losses.response.logit_regression:LogitRegression"
    type: Literal["logits"] = "logits"
    centred: bool = Field(default=False, description="without the mean over classes, which no distribution depends on")


class DivergenceTerm(LogitTerm):
    """A divergence of softened distributions (row R2)."""

    home: ClassVar[str] = "kdcore.losses.response.divergence:Divergence"
    temperature: float = Field(
        default=4.0, gt=0, description="of both distributions; the loss is multiplied by its square"
    )

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the divergence."""
        return {}


class KLTerm(DivergenceTerm):
    """KL(teacher, student): soft targets."""

    type: Literal["kl"] = "kl"


class ReverseKLTerm(DivergenceTerm):
    """KL(student, teacher)."""

    type: Literal["reverse_kl"] = "reverse_kl"


class JSDTerm(DivergenceTerm):
    """Generalised Jensen-Shannon divergence."""

    type: Literal["jsd"] = "jsd"
    beta: float = Field(default=0.5, ge=0, le=1, description="the teacher's share; 0: kl, 1: reverse_kl")

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the divergence."""
        return {"beta": self.beta}


class SkewKLTerm(DivergenceTerm):
    """KL(teacher, mixture)."""

    type: Literal["skew_kl"] = "skew_kl"
    alpha: float = Field(default=0.1, gt=0, lt=1, description="the teacher's share of the mixture")

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the divergence."""
        return {"alpha": self.alpha}


class SkewReverseKLTerm(DivergenceTerm):
    """KL(student, mixture)."""

    type: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: float = Field(default=0.1, gt=0, lt=1, description="the student's share of the mixture")

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the divergence."""
        return {"alpha": self.alpha}


class TotalVariationTerm(DivergenceTerm):
    """Half of the sum of absolute differences."""

    type: Literal["total_variation"] = "total_variation"


class AdaptiveKLTerm(DivergenceTerm):
    """Both KLs, mixed by where the distributions differ."""

    type: Literal["adaptive_kl"] = "adaptive_kl"
    head_mass: float = Field(default=0.5, gt=0, le=1, description="the teacher's mass that makes the head")

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the divergence."""
        return {"head_mass": self.head_mass}


SoftTargetsTerm = (
    KLTerm | ReverseKLTerm | JSDTerm | SkewKLTerm | SkewReverseKLTerm | TotalVariationTerm | AdaptiveKLTerm
)


class ConditionalTerm(LogitTerm):
    """The teacher where it is right, the hard label elsewhere (row R3)."""

    home: ClassVar[str] = "kdcore.losses.response.conditional:Conditional"
    type: Literal["conditional"] = "conditional"


class DKDTerm(LogitTerm):
    """Decoupled knowledge distillation."""

    home: ClassVar[str] = "kdcore.losses.response.decoupled:Decoupled"
    type: Literal["dkd"] = "dkd"
    alpha: float = Field(default=1.0, ge=0, description="of the target's probability against all others")
    beta: float = Field(default=8.0, ge=0, description="of the distribution among the others")
    temperature: float = Field(
        default=4.0, gt=0, description="of both distributions; the loss is multiplied by its square"
    )


class RLDTerm(LogitTerm):
    """Refined logits: the teacher's mistakes are left out."""

    home: ClassVar[str] = "kdcore.losses.response.refined:Refined"
    type: Literal["rld"] = "rld"
    alpha: float = Field(default=1.0, ge=0, description="of how sure the teacher is of its best class")
    beta: float = Field(
        default=8.0, ge=0, description="of the distribution among what it thinks less of than the target"
    )
    sure_temperature: float = Field(default=1.0, gt=0, description="of alpha's part, multiplied by its square")
    temperature: float = Field(default=4.0, gt=0, description="of beta's part, multiplied by its square")


class NKDTerm(LogitTerm):
    """Normalised knowledge distillation."""

    home: ClassVar[str] = "kdcore.losses.response.normalised:Normalised"
    type: Literal["nkd"] = "nkd"
    gamma: float = Field(default=1.5, ge=0, description="of the distribution among the other classes")
    temperature: float = Field(
        default=1.0, gt=0, description="among the other classes; their term is multiplied by its square"
    )


class WSLDTerm(LogitTerm):
    """Weighted soft labels: less of the teacher where it is less sure of the target than the student."""

    home: ClassVar[str] = "kdcore.losses.response.weighted_soft_labels:WeightedSoftLabels"
    type: Literal["wsld"] = "wsld"
    temperature: float = Field(
        default=2.0, gt=0, description="of both distributions; the loss is multiplied by its square"
    )


class TTMTerm(LogitTerm):
    """Transformed teacher matching: a softened teacher, a student at temperature 1."""

    home: ClassVar[str] = "kdcore.losses.response.transformed_teacher:TransformedTeacher"
    type: Literal["ttm"] = "ttm"
    exponent: float = Field(default=0.1, gt=0, le=1, description="of the teacher's probabilities: 1 / temperature")
    weighted: bool = Field(default=True, description="WTTM: smooth teachers count more; false: TTM")


class DISTTerm(LogitTerm):
    """Correlations within samples and within classes."""

    home: ClassVar[str] = "kdcore.losses.response.correlation:Correlation"
    type: Literal["dist"] = "dist"
    beta: float = Field(default=1.0, ge=0, description="of correlations over the classes of a sample")
    gamma: float = Field(default=1.0, ge=0, description="of correlations over the samples of a batch")
    temperature: float = Field(
        default=1.0, gt=0, description="of both distributions; the loss is multiplied by its square"
    )


class MultiLevelTerm(LogitTerm):
    """Multi-level logits: samples, pairs of samples, pairs of classes."""

    home: ClassVar[str] = "kdcore.losses.response.multi_level:MultiLevel"
    type: Literal["multi_level"] = "multi_level"
    temperatures: tuple[float, ...] = Field(
        default=(2.0, 3.0, 4.0, 5.0, 6.0), min_length=1, description="each gives all three terms; their sum is the loss"
    )
    samples: float = Field(default=1.0, ge=0, description="of each sample's KL, times the square of the temperature")
    pairs: float = Field(default=1.0, ge=0, description="of the similarity of samples")
    classes: float = Field(default=1.0, ge=0, description="of the similarity of classes")


class DirectionTerm(LogitTerm):
    """SKD's directions: logits of a batch seen from each other."""

    home: ClassVar[str] = "kdcore.losses.response.directions:Directions"
    type: Literal["skd"] = "skd"
    tikhonov: float = Field(default=0.1, gt=0, description="added to the covariance, so that it can be inverted")


class CurriculumTerm(LogitTerm):
    """CTKD: a temperature that is learnt against the student, harder as training goes on."""

    home: ClassVar[str] = "kdcore.losses.response.curriculum:Curriculum"
    type: Literal["ctkd"] = "ctkd"
    lowest: float = Field(default=1.0, gt=0, description="temperature")
    span: float = Field(default=20.0, gt=0, description="the highest temperature is lowest + span")
    ramp: float = Field(
        default=0.04, gt=0, le=1, description="share of the steps until the temperature learns at full rate"
    )


class FeatureNormTerm(VectorTerm):
    """A temperature for each sample, the length of its features (row F10)."""

    home: ClassVar[str] = "kdcore.losses.response.feature_norm:FeatureNorm"
    type: Literal["feature_norm"] = "feature_norm"
    length: float = Field(
        default=2.0, gt=0, description="that the features are brought to: the inverse of the paper's tau"
    )
    shorten_only: bool = Field(default=True, description="no temperature below 1: the authors' code; false: the paper")


class HeatmapsTerm(FeatureTerm):
    """Heatmaps of joints or landmarks, at the layers that give them (row R5)."""

    home: ClassVar[str] = "kdcore.losses.response.heatmaps:Heatmaps"
    type: Literal["heatmaps"] = "heatmaps"


ResponseTerm = (
    CrossEntropyTerm
    | VirtualTeacherTerm
    | ClassWiseTerm
    | LogitsTerm
    | SoftTargetsTerm
    | ConditionalTerm
    | DKDTerm
    | RLDTerm
    | NKDTerm
    | WSLDTerm
    | TTMTerm
    | DISTTerm
    | MultiLevelTerm
    | DirectionTerm
    | CurriculumTerm
    | FeatureNormTerm
    | HeatmapsTerm
)
