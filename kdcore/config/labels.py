"""What is stored of the teacher's answer, and how the work is cut."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kdcore.config.base import IsPath, Settings
from kdcore.config.mix import MixConfig


class ThresholdConfig(Settings):
    """Unbiased, the least variance for its bytes: classes above tau always, below by chance. Give one of the three."""

    type: Literal["threshold"] = "threshold"
    budget_bytes: float | None = Field(
        default=None, gt=0, description="bytes a label of the codec's columns; a probe finds tau (default: 12)"
    )
    tau: float | None = Field(default=None, gt=0, le=1, description="the threshold, one over a whole number")
    draws: int | None = Field(default=None, ge=1, le=65_535, description="1 / tau")
    seed: int = Field(default=0, ge=0, description="of the random choices")

    @model_validator(mode="after")
    def _one_size(self) -> "ThresholdConfig":
        given = [name for name in ("budget_bytes", "tau", "draws") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of budget_bytes, tau and draws, got {given}")
        if self.tau is not None and (abs(1 / self.tau - round(1 / self.tau)) > 1e-3 or round(1 / self.tau) > 65_535):
            raise ValueError(
                f"tau must be one over a whole number up to 65,535; nearest: {1 / round(1 / self.tau):.6g}"
            )
        return self


class SampledConfig(Settings):
    """Independent draws with replacement, counted: unbiased, the literature's random sampling."""

    type: Literal["sampled"] = "sampled"
    draws: int = Field(default=50, ge=1, le=65_535, description="of each label")
    seed: int = Field(default=0, ge=0, description="of the draws")


class TopKConfig(Settings):
    """The k most probable entries with their log-probabilities, and the tail as one cell (biased)."""

    type: Literal["topk"] = "topk"
    k: int = Field(default=16, ge=1, description="entries of each label")
    bits: Literal[8, 16] = Field(
        default=16, description="of each log-probability; 16 is a float16, with 8 the ids are packed too"
    )


class DenseConfig(Settings):
    """All log-probabilities, as float16 or in 8 bits."""

    type: Literal["dense"] = "dense"
    bits: Literal[8, 16] = Field(default=16, description="of each class's log-probability; 16 is a float16")


class FeatureConfig(Settings):
    """Activations of chosen layers instead of a distribution."""

    type: Literal["feature"] = "feature"
    layers: tuple[str, ...] = Field(min_length=1, description="module paths in the teacher, such as model.layers.3")
    dtype: Literal["float16", "int8"] = Field(
        default="float16", description="of a stored number; int8 has one scale a channel, from the probe"
    )


class SpanConfig(Settings):
    """The teacher's log-probabilities of its own tokens and the bytes these are of: for students of any tokenizer."""

    type: Literal["span"] = "span"


CodecConfig = Annotated[
    ThresholdConfig | SampledConfig | TopKConfig | DenseConfig | FeatureConfig | SpanConfig, Field(discriminator="type")
]
"""Any `labels.codec`, told by its `type`."""


class LabelsConfig(Settings):
    """The label store of a recipe."""

    codec: CodecConfig | None = Field(default=None, description="default: threshold for text, dense for images")
    path: Annotated[str | None, IsPath(made=True, url=True)] = Field(
        default=None, description="the store; default RUN/labels; another run's finished store is reused"
    )
    mix: MixConfig | None = Field(
        default=None, description="learn from several finished stores instead of one that `teacher` labels"
    )
    unit_bytes: int = Field(
        default=512_000, ge=1, description="input bytes of one work unit (one shard), at least one sample"
    )
    max_attempts: int = Field(default=3, ge=1, description="attempts of a unit, and of a replica's start")
    retry_seconds: float = Field(
        default=1, ge=0, description="wait before a second attempt; twice as long each time, up to a minute"
    )
    stuck_seconds: float = Field(
        default=3600,
        gt=0,
        description="a unit is taken from a replica that is at it for so long; once the others' speed is known, "
        "for 20 times as long as they would be, and for 600 (or this, if less)",
    )
    probe_labels: int = Field(
        default=16_384, ge=1, description="labels on which the codec is learnt and its fidelity measured"
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> "LabelsConfig":
        given = [name for name in ("codec", "path") if getattr(self, name) is not None]
        if self.mix is not None and given:
            raise ValueError(
                f"`mix` reads stores that are there, with their own codecs: leave {' and '.join(given)} out"
            )
        return self
