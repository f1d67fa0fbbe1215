"""How a student (or a teacher, on the spot) is trained."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdcore.config.base import Settings


class OptimizerConfig(Settings):
    """AdamW with a warm-up and a decay."""

    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)
    final_ratio: float = Field(default=0.0, ge=0, le=1, description="last learning rate / peak learning rate")


class TorchEngineConfig(Settings):
    """Plain torch, DistributedDataParallel when there is more than one rank."""

    type: Literal["torch"] = "torch"


class DeepSpeedEngineConfig(Settings):
    """DeepSpeed; `extra` is merged into its configuration file as it is."""

    type: Literal["deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = 1
    extra: dict[str, Any] = {}


EngineConfig = Annotated[TorchEngineConfig | DeepSpeedEngineConfig, Field(discriminator="type")]


class LossConfig(Settings):
    """(1 - hard_weight) x forward KL to the teacher + hard_weight x cross-entropy to the hard label."""

    type: Literal["kl"] = "kl"
    hard_weight: float = Field(default=0.0, ge=0, le=1)
    temperature: float = Field(
        default=1.0, gt=0, description="dense labels only; the KL term is multiplied by its square"
    )
    chunk_tokens: int = Field(default=1024, ge=1, description="tokens whose logits exist at one time")


class CheckpointConfig(Settings):
    """When to save and how much to keep."""

    every_steps: int = Field(default=200, ge=1)
    keep: int = Field(default=2, ge=1)


class TrainingConfig(Settings):
    """One training run; the seeds and the baseline repeat it."""

    steps: int | None = Field(default=None, ge=1, description="optimizer steps; give this or `epochs`")
    epochs: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=16, ge=1, description="sequences (or images) per optimizer step, over all ranks")
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="per rank and forward; default: the whole step"
    )
    sequence_length: int = Field(default=256, ge=2, description="tokens per sequence (text)")
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_clip: float = Field(default=1.0, gt=0)
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = TorchEngineConfig()
    loss: LossConfig = LossConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    seeds: tuple[int, ...] = (0,)
    baseline: bool = Field(
        default=True, description="also train each student without the teacher, same steps and order"
    )
    log_every_steps: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds must be different and at least one, got {list(self.seeds)}")
        return self
