"""What is stored of the teacher's answer, and how the work is cut."""

from typing import Annotated, Literal

from pydantic import Field

from kdcore.config.base import Settings


class TopKConfig(Settings):
    """The k most probable entries with their log-probabilities, and the tail as one cell (biased)."""

    type: Literal["topk"] = "topk"
    k: int = Field(default=16, ge=1)


class DenseConfig(Settings):
    """All log-probabilities, as float16."""

    type: Literal["dense"] = "dense"


CodecConfig = Annotated[TopKConfig | DenseConfig, Field(discriminator="type")]


class LabelsConfig(Settings):
    """The label store of a recipe."""

    codec: CodecConfig = TopKConfig()
    path: str | None = Field(
        default=None, description="the store; default RUN/labels; another run's finished store is reused"
    )
    unit_bytes: int = Field(
        default=512_000, ge=1, description="input bytes of one work unit (one shard), at least one sample"
    )
    max_attempts: int = Field(default=3, ge=1, description="attempts of a unit whose replica died")
