"""Losses of features: section 2.2 of the survey (arXiv 2006.05525). Those with more of their own to learn, and those
that came later, are in `feature_later.py`."""

from typing import ClassVar, Literal

from pydantic import Field

from kdcore.config.losses.base import FeatureTerm, PlacesTerm, VectorTerm
from kdcore.config.losses.feature_later import LaterFeatureTerm


class FitNetTerm(PlacesTerm):
    """Features through a regressor are to be the teacher's (row F1)."""

    home: ClassVar[str] = "kdcore.losses.feature.fitnet:FitNet"
    type: Literal["fitnet"] = "fitnet"
    mode: Literal["code", "paper"] = Field(
        default="code", description="the mean of squared differences, or half their sum a sample as in the paper"
    )
    relu: bool | None = Field(
        default=None, description="whether regressors end in a ReLU as the teacher's layers do; default: for maps"
    )


class NeuronSelectivityTerm(FeatureTerm):
    """Channels as samples of a distribution over places (row F2)."""

    home: ClassVar[str] = "kdcore.losses.feature.neuron_selectivity:NeuronSelectivity"
    type: Literal["nst"] = "nst"
    kernel: Literal["polynomial", "linear", "gaussian"] = Field(
        default="polynomial", description="of the maximum mean discrepancy"
    )


class AttentionTransferTerm(FeatureTerm):
    """Where activations are large (row F3)."""

    home: ClassVar[str] = "kdcore.losses.feature.attention_transfer:AttentionTransfer"
    type: Literal["attention_transfer"] = "attention_transfer"
    mode: Literal["code", "paper"] = Field(
        default="code", description="the mean of squared differences, or their length a sample as in the paper"
    )
    power: float = Field(default=2.0, ge=1, description="of the absolute activations")
    channels: Literal["mean", "max"] = Field(default="mean", description="what is made of the channels of a place")


class FactorTransferTerm(FeatureTerm):
    """Paraphrased features against translated ones (row F4)."""

    home: ClassVar[str] = "kdcore.losses.feature.factor_transfer:FactorTransfer"
    type: Literal["factor_transfer"] = "factor_transfer"
    p: Literal[1, 2] = Field(default=1, description="the norm of the difference of factors")
    rate: float = Field(default=0.5, gt=0, le=4, description="factors for each channel of the teacher")
    reconstruction: float = Field(
        default=1.0, ge=0, description="weight of the paraphraser's own loss, which the student does not see"
    )


class ActivationBoundaryTerm(PlacesTerm):
    """Which neurons fire, before the ReLU (row F7)."""

    home: ClassVar[str] = "kdcore.losses.feature.activation_boundary:ActivationBoundary"
    type: Literal["activation_boundary"] = "activation_boundary"
    margin: float = Field(default=1.0, gt=0, description="beyond zero that counts as firing or silent for sure")


class OverhaulTerm(FeatureTerm):
    """Margin ReLU and a partial distance, before the ReLU (row F9)."""

    home: ClassVar[str] = "kdcore.losses.feature.overhaul:Overhaul"
    type: Literal["ofd"] = "ofd"


class AdaptiveNormalisationTerm(FeatureTerm):
    """Statistics of channels, which a live teacher judges (row F12)."""

    home: ClassVar[str] = "kdcore.losses.feature.adaptive_normalisation:AdaptiveNormalisation"
    type: Literal["adain"] = "adain"
    statistics: float = Field(default=1.0, ge=0, description="weight of the distance of means and deviations")
    judgement: float = Field(default=1.0, ge=0, description="weight of the distance of the teacher's logits")


class SemCKDTerm(FeatureTerm):
    """Every layer learns from every layer of the teacher, by attention (row F15)."""

    home: ClassVar[str] = "kdcore.losses.feature.sem_ckd:SemCKD"
    paired: ClassVar[bool] = False
    type: Literal["sem_ckd"] = "sem_ckd"
    batch: int = Field(default=64, ge=1, description="the largest micro-batch: similarities that a query is made of")
    factor: int = Field(default=4, ge=1, description="how much narrower than `batch` queries and keys are")


class VariationalInformationTerm(PlacesTerm):
    """The teacher's features predicted with a learnt variance a channel (row F17)."""

    home: ClassVar[str] = "kdcore.losses.feature.variational_information:VariationalInformation"
    type: Literal["vid"] = "vid"
    initial_variance: float = Field(default=5.0, gt=1e-3, description="of every channel")


class TaskOrientedTerm(FeatureTerm):
    """Features that auxiliary classifiers made serve the task (row F18)."""

    home: ClassVar[str] = "kdcore.losses.feature.task_oriented:TaskOriented"
    type: Literal["tofd"] = "tofd"
    alpha: float = Field(default=0.05, ge=0, description="weight of the distance of features")
    beta: float = Field(default=0.03, ge=0, description="weight of the orthogonal penalty")
    heat: float = Field(default=3.0, ge=0, description="how much the temperature rises above one until the last step")


class PrimeAwareTerm(VectorTerm):
    """Embeddings with a learnt variance a sample (row F20)."""

    home: ClassVar[str] = "kdcore.losses.feature.prime_aware:PrimeAware"
    type: Literal["pad"] = "pad"


class MatchingGuidedTerm(FeatureTerm):
    """Channels that are assigned to each other, before the ReLU (row F21)."""

    home: ClassVar[str] = "kdcore.losses.feature.matching_guided:MatchingGuided"
    type: Literal["matching_guided"] = "matching_guided"
    every: int = Field(default=200, ge=1, description="micro-batches between one assignment and the next")


FeatureLossTerm = (
    FitNetTerm
    | NeuronSelectivityTerm
    | AttentionTransferTerm
    | FactorTransferTerm
    | ActivationBoundaryTerm
    | OverhaulTerm
    | AdaptiveNormalisationTerm
    | SemCKDTerm
    | VariationalInformationTerm
    | TaskOrientedTerm
    | PrimeAwareTerm
    | MatchingGuidedTerm
    | LaterFeatureTerm
)
