"""How a student (or a teacher, on the spot) is trained."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdcore.config.base import IsPath, Settings
from kdcore.config.loss import LossConfig
from kdcore.config.losses import AnyLossTerm

_OF_OPTIMIZER: dict[str, dict[str, Any]] = {
    "adamw": {"betas": (0.9, 0.95), "epsilon": 1e-8},
    "sgd": {"momentum": 0.9, "nesterov": False},
}


class OptimizerConfig(Settings):
    """AdamW, or SGD with momentum, and the learning rate over the run."""

    type: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, description="its peak, after the warm-up")
    weight_decay: float = Field(
        default=0.0, ge=0, description="of matrices and kernels: vectors have none; sgd adds it to the gradient"
    )
    betas: tuple[float, float] | None = Field(
        default=None, description="of adamw; default: 0.9 and 0.95, as is usual for language models"
    )
    epsilon: float | None = Field(default=None, gt=0, description="of adamw; default: 1e-8")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="of sgd; default: 0.9")
    nesterov: bool | None = Field(default=None, description="of sgd: momentum that looks ahead; default: no")
    schedule: Literal["constant", "linear", "cosine", "wsd", "step"] = Field(
        default="cosine",
        description="of the learning rate, from the peak to final_ratio of it at the last step; wsd: stays at the peak "
        "and falls at the end; step: is multiplied by milestone_factor at each of the milestones",
    )
    decay_fraction: float = Field(
        default=0.2, gt=0, le=1, description="wsd: share of all steps, at the end, in which the rate falls linearly"
    )
    milestones: tuple[float, ...] = Field(
        default=(0.5, 0.75), description="step: shares of all steps after which the rate falls, in their order"
    )
    milestone_factor: float = Field(default=0.1, gt=0, lt=1, description="step: of the rate, at each milestone")
    warmup_steps: int = Field(
        default=0, ge=0, description="optimizer steps in which the learning rate rises to its peak"
    )
    final_ratio: float = Field(
        default=0.0, ge=0, le=1, description="last learning rate / peak learning rate; not of constant and step"
    )

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings of this type of optimizer alone, with their defaults."""
        given = {name: getattr(self, name) for name in _OF_OPTIMIZER[self.type]}
        return {name: _OF_OPTIMIZER[self.type][name] if value is None else value for name, value in given.items()}

    @model_validator(mode="after")
    def _parameters_of_the_type(self) -> "OptimizerConfig":
        for other, names in _OF_OPTIMIZER.items():
            given = [name for name in names if other != self.type and getattr(self, name) is not None]
            if given:
                raise ValueError(f"`{given[0]}` is of type {other}, but type is '{self.type}': remove it, or set type")
        if self.type == "sgd" and self.parameters["nesterov"] and not self.parameters["momentum"]:
            raise ValueError("nesterov looks ahead along the momentum, which is 0: set momentum, or leave nesterov out")
        rising = all(before < after for before, after in pairwise((0.0, *self.milestones, 1.0)))
        if not rising or not self.milestones:
            raise ValueError(
                f"milestones must be shares of the run between 0 and 1, rising, got {list(self.milestones)}"
            )
        return self


class TorchEngineConfig(Settings):
    """Plain torch, DistributedDataParallel when there is more than one rank."""

    type: Literal["torch"] = "torch"


Offload = Literal["none", "cpu", "nvme"]
"""Where ZeRO keeps what it takes off the GPU."""


class DeepSpeedEngineConfig(Settings):
    """DeepSpeed; `extra` is merged into its configuration file, beside what follows from these settings."""

    type: Literal["deepspeed"] = "deepspeed"
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=1, description="what ranks share out: optimizer state, from 2 gradients, from 3 parameters; 0: nothing"
    )
    offload_optimizer: Offload = Field(
        default="none", description="where the optimizer's state lives instead of the GPU; cpu from stage 1, nvme at 3"
    )
    offload_parameters: Offload = Field(
        default="none", description="where parameters wait instead of on the GPU; at stage 3 alone"
    )
    offload_path: Annotated[str | None, IsPath(made=True)] = Field(
        default=None, description="folder on a local fast disk of every node, for nvme"
    )
    extra: dict[str, Any] = Field(default={}, description="more keys of DeepSpeed's configuration file")

    @model_validator(mode="after")
    def _offload_fits(self) -> "DeepSpeedEngineConfig":
        optimizer, parameters, stage = self.offload_optimizer, self.offload_parameters, self.zero_stage
        if parameters != "none" and stage != 3:
            raise ValueError(f"offload_parameters '{parameters}' needs zero_stage 3, got {stage}")
        if optimizer == "cpu" and stage == 0:
            raise ValueError("offload_optimizer 'cpu' needs zero_stage 1, 2 or 3, got 0")
        if optimizer == "nvme" and stage != 3:
            raise ValueError(f"offload_optimizer 'nvme' needs zero_stage 3, got {stage}; or set it to cpu")
        if ("nvme" in (optimizer, parameters)) != (self.offload_path is not None):
            raise ValueError(
                f"offload_path and nvme go together: offload_optimizer is '{optimizer}', offload_parameters "
                f"'{parameters}', offload_path {self.offload_path!r}"
            )
        return self


EngineConfig = Annotated[TorchEngineConfig | DeepSpeedEngineConfig, Field(discriminator="type")]
"""Any `training.engine`, told by its `type`."""


LongDocuments = Literal["refuse", "cut", "drop"]
"""What becomes of documents that are longer than a sequence."""


class CheckpointConfig(Settings):
    """When to save and how much to keep."""

    every_steps: int = Field(default=200, ge=1, description="optimizer steps between two checkpoints")
    keep: int = Field(default=2, ge=1, description="the newest ones; 2, so that a damaged one costs no more than one")


class TrainingConfig(Settings):
    """One training run; the seeds and the baseline repeat it."""

    steps: int | None = Field(default=None, ge=1, description="optimizer steps; give this or `epochs`")
    epochs: float | None = Field(default=None, gt=0, description="passes over the samples; give this or `steps`")
    batch_size: int | None = Field(
        default=None, ge=1, description="sequences (or images) per optimizer step, over all ranks; default: 16"
    )
    tokens_per_step: int | None = Field(
        default=None, ge=1, description="instead of batch_size: tokens per step, up to one sequence more or less (text)"
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="per rank and forward; default: the whole step"
    )
    micro_batch_tokens: int | None = Field(
        default=None, ge=1, description="instead of micro_batch_size: tokens per rank and forward, with padding (text)"
    )
    sequence_length: int = Field(
        default=256, ge=2, description="tokens per sequence, and per row of packed sequences, at most (text)"
    )
    long_documents: LongDocuments = Field(
        default="refuse", description="what happens to documents longer than sequence_length (text)"
    )
    packing: bool | Literal["auto"] = Field(
        default="auto", description="several sequences a row (text); auto: where the student keeps them apart"
    )
    prefetch: int = Field(
        default=2, ge=0, description="micro-batches made in the background, beside the one in use; 0: none"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of forward and backward passes; parameters stay float32"
    )
    activation_checkpointing: bool = Field(
        default=False, description="compute activations again in the backward pass: less memory, more time"
    )
    gradient_clip: float = Field(default=1.0, gt=0, description="norm of the whole gradient, at most")
    on_bad_step: Literal["stop", "skip"] = Field(
        default="stop", description="when loss or gradient is not finite, or the loss a spike: no such step is taken"
    )
    spike_factor: float | None = Field(
        default=None, gt=1, description="a loss so many times the median of the last 50 is a spike; default: none is"
    )
    max_skipped_steps: int = Field(default=10, ge=1, description="with on_bad_step skip: more than these stop the run")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="AdamW or SGD, and its schedule")
    engine: EngineConfig = Field(default=TorchEngineConfig(), description="who runs the steps of several ranks")
    loss: LossConfig = Field(default=LossConfig(), description="what is minimised")
    losses: tuple[AnyLossTerm, ...] = Field(
        default=(),
        description="instead of `loss`: several, by type, with weights (docs/losses.md); of text: with rule apart",
    )
    live_teacher: bool | Literal["auto"] = Field(
        default="auto",
        description="of `losses`: run the teacher in training; false: its store; auto: where the store lacks something",
    )
    checkpoint: CheckpointConfig = Field(default=CheckpointConfig(), description="what a killed run goes on from")
    seeds: tuple[int, ...] = Field(
        default=(0,), description="one student for each: its initial weights and the order of samples"
    )
    baseline: bool = Field(
        default=True, description="also train each student without the teacher, same steps and order"
    )
    log_every_steps: int = Field(default=10, ge=1, description="optimizer steps between two lines of metrics")

    @model_validator(mode="before")
    @classmethod
    def _size_of_a_step(cls, values: Any) -> Any:
        """16 sequences where no size is given, so that a resolved recipe names exactly one and can be read back."""
        if isinstance(values, dict) and values.get("batch_size") is None and values.get("tokens_per_step") is None:
            return {**values, "batch_size": 16}
        return values

    @model_validator(mode="after")
    def _sizes(self) -> "TrainingConfig":
        if self.batch_size is not None and self.tokens_per_step is not None:
            raise ValueError("give exactly one of `batch_size` and `tokens_per_step`; null unsets the other")
        if self.micro_batch_size is not None and self.micro_batch_tokens is not None:
            raise ValueError("give at most one of `micro_batch_size` and `micro_batch_tokens`; null unsets the other")
        for name in ("tokens_per_step", "micro_batch_tokens"):
            size = getattr(self, name)
            if size is not None and size < self.sequence_length:
                raise ValueError(f"{name} must have room for a sequence ({self.sequence_length} tokens), got {size}")
        return self

    @model_validator(mode="after")
    def _one_way_to_learn(self) -> "TrainingConfig":
        if self.losses and self.loss != LossConfig():
            raise ValueError(
                "give one of `loss` and `losses`: of `loss`, type kl with its settings is a term of `losses` too"
            )
        last = max((term.until for term in self.losses if term.weight or term.final_weight), default=0.0)
        if self.losses and last < 1:
            raise ValueError(
                f"`losses` leave nothing to learn from after a share {last:g} of the steps: every one has weight 0, or "
                "ends (`until`) by then; let one go on"
            )
        if not self.losses and self.live_teacher != "auto":
            raise ValueError("`live_teacher` is a setting of `losses`, which are not given: leave it out")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds must be different and at least one, got {list(self.seeds)}")
        return self
