"""Losses of a transformer's hidden states and attention (survey, arXiv 2006.05525, 7; rows F14, F25 and P8 to P12).

`at` names modules whose output is [B, L, D]: layers for hidden states; for attention the linear maps that give queries
and keys, from which it is made again, so that any implementation of attention will do.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from kdcore.config.losses.base import FeatureTerm

Tokens = Literal["all", "first"]


class HiddenTerm(FeatureTerm):
    """A loss of hidden states; where widths differ, the student's go through a linear map that is learnt."""

    tokens: Tokens = Field(default="all", description="all but padding, or the first alone ([CLS])")


class PatientTerm(HiddenTerm):
    """PKD: directions of [CLS] (row P9)."""

    home: ClassVar[str] = "kdcore.losses.transformer.hidden:Patient"
    type: Literal["pkd"] = "pkd"
    tokens: Tokens = Field(default="first", description="all but padding, or the first alone ([CLS])")


class HiddenStatesTerm(HiddenTerm):
    """Mean squares of hidden states or embeddings (TinyBERT, row P10)."""

    home: ClassVar[str] = "kdcore.losses.transformer.hidden:HiddenStates"
    type: Literal["hidden_states"] = "hidden_states"


class HiddenCosineTerm(HiddenTerm):
    """Cosine of hidden states (DistilBERT, row P8; of [CLS], row F25)."""

    home: ClassVar[str] = "kdcore.losses.transformer.hidden:HiddenCosine"
    type: Literal["hidden_cosine"] = "hidden_cosine"


class FeatureMapsTerm(HiddenTerm):
    """MobileBERT's feature maps: normalised states, their means and their variances (row P11)."""

    home: ClassVar[str] = "kdcore.losses.transformer.feature_maps:FeatureMaps"
    type: Literal["mobilebert"] = "mobilebert"
    normalised: float = Field(default=1.0, ge=0, description="of the squared difference of normalised states")
    mean: float = Field(default=1.0, ge=0, description="of the squared difference of their means")
    variance: float = Field(default=1.0, ge=0, description="of the absolute difference of their variances")


class ContrastTerm(HiddenTerm):
    """COS-NCE of LRC-BERT: near to the teacher's states of a text, far from those of the batch's others (row P16)."""

    home: ClassVar[str] = "kdcore.losses.transformer.contrast:Contrast"
    type: Literal["lrc_bert"] = "lrc_bert"


class LayerProjectionTerm(HiddenTerm):
    """ALP: each student layer chooses among all of the teacher's (row F14)."""

    home: ClassVar[str] = "kdcore.losses.transformer.layer_projection:LayerProjection"
    type: Literal["alp"] = "alp"
    tokens: Tokens = Field(default="first", description="all but padding, or the first alone ([CLS])")
    paired: ClassVar[bool] = False


class QueryKeyTerm(FeatureTerm):
    """A loss of attention; both networks have the same number of heads."""

    at: tuple[str, ...] = Field(
        min_length=2, description="of each layer two module paths in the student: its queries, its keys"
    )
    heads: int = Field(ge=1, description="of both networks")

    @model_validator(mode="after")
    def _queries_and_keys(self) -> "QueryKeyTerm":
        if len(self.at) % 2:
            raise ValueError(
                f"`at` needs two paths of each layer, queries and keys, such as attention.self.query and "
                f"attention.self.key: got {len(self.at)} paths"
            )
        return self


class AttentionScoresTerm(QueryKeyTerm):
    """Mean squares of attention before its softmax (TinyBERT, row P10)."""

    home: ClassVar[str] = "kdcore.losses.transformer.attention:AttentionScores"
    type: Literal["attention_scores"] = "attention_scores"


class AttentionMapsTerm(QueryKeyTerm):
    """KL of attention (MobileBERT, row P11; MiniLM, row P12; row F25)."""

    home: ClassVar[str] = "kdcore.losses.transformer.attention:AttentionMaps"
    type: Literal["attention_maps"] = "attention_maps"


class RelationsTerm(FeatureTerm):
    """MiniLM: which tokens are alike among queries, keys or values (row P12)."""

    home: ClassVar[str] = "kdcore.losses.transformer.relations:Relations"
    type: Literal["minilm"] = "minilm"
    heads: int = Field(
        ge=1, description="of relations: parts that vectors are cut into; MiniLM: the networks' own heads"
    )


TransformerTerm = (
    PatientTerm
    | HiddenStatesTerm
    | HiddenCosineTerm
    | FeatureMapsTerm
    | ContrastTerm
    | LayerProjectionTerm
    | AttentionScoresTerm
    | AttentionMapsTerm
    | RelationsTerm
)
