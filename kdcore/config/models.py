"""Teachers and students: which network, from where, in which numerics."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdcore.config.base import IsPath, Settings
from kdcore.config.training import TrainingConfig

DType = Annotated[
    Literal["float32", "bfloat16", "float16"],
    Field(description="of weights and forward passes; part of the labels' identity"),
]
"""The floating type of weights and passes."""


class _OfTransformers(Settings):
    """A directory or hub name, or an architecture to initialise; and its tokenizer."""

    path: Annotated[str | None, IsPath()] = Field(
        default=None, description="directory or hub name; none: initialise `architecture`"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub; default: its main branch")
    architecture: dict[str, Any] = Field(default={}, description="keys of the transformers config, with `model_type`")
    tokenizer: Annotated[str | None, IsPath()] = Field(
        default=None, description="directory or hub name; default: `path`, else the teacher's"
    )

    @property
    def tokenizer_source(self) -> tuple[str, str | None] | None:
        """Directory or hub name of its own tokenizer, and the revision; None where it has none."""
        if self.tokenizer is not None:
            return self.tokenizer, None
        return None if self.path is None else (self.path, self.revision)

    @model_validator(mode="after")
    def _one_source(self) -> "_OfTransformers":
        if (self.path is None) == (not self.architecture):
            raise ValueError("give exactly one of `path` and `architecture`")
        return self


class CausalLMConfig(_OfTransformers):
    """A Hugging Face causal language model: a directory or hub name, or an architecture to initialise."""

    type: Literal["causal_lm"] = "causal_lm"
    trust_remote_code: bool = Field(default=False, description="runs Python code that comes with the model: a risk")


class LoraConfig(Settings):
    """Small matrices that are trained in place of the model's own (LoRA, by the package peft)."""

    rank: int = Field(default=16, ge=1, description="of each pair of matrices")
    alpha: float = Field(default=32.0, gt=0, description="their product is added alpha / rank times")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of what goes into them")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear", description="ends of the names of linear layers; all-linear: all but the head"
    )


class StudentLMConfig(CausalLMConfig):
    """A causal LM that learns: whole, or by adapters."""

    lora: LoraConfig | None = Field(default=None, description="train adapters alone; default: the whole model")

    @model_validator(mode="after")
    def _lora_on_something(self) -> "StudentLMConfig":
        if self.lora is not None and self.path is None:
            raise ValueError("lora adapts a model that knows something already: set `path`, not `architecture`")
        return self


class ImageClassifierConfig(Settings):
    """An image classifier from timm, torchvision, transformers, this project's own few, or an import path."""

    type: Literal["image_classifier"] = "image_classifier"
    source: Literal["timm", "torchvision", "transformers", "convnet", "cifar_resnet", "lenet", "mlp", "import"] = Field(
        default="convnet",
        description="who builds it; convnet, cifar_resnet, lenet and mlp are this project's own and need no package",
    )
    name: Annotated[str, IsPath(where=("source", "transformers"))] = Field(
        default="", description="timm/torchvision model name, transformers path, or `module:callable`"
    )
    kwargs: dict[str, Any] = Field(default={}, description="arguments of the constructor")
    path: Annotated[str | None, IsPath()] = Field(
        default=None, description="safetensors file, or a directory this project exported"
    )


class TextClassifierConfig(_OfTransformers):
    """An encoder of transformers with a head for whole texts: a directory or hub name, or an architecture."""

    type: Literal["text_classifier"] = "text_classifier"
    max_length: int = Field(default=128, ge=4, description="tokens of a text, or of both of a pair; more are cut off")


ModelConfig = Annotated[StudentLMConfig | ImageClassifierConfig | TextClassifierConfig, Field(discriminator="type")]
"""Any `student`, told by its `type`."""


class _Windowed(Settings):
    """Documents longer than `context` are cut into overlapping windows."""

    context: int = Field(default=512, ge=2, description="tokens per window")
    overlap: int = Field(
        default=128, ge=0, description="left context that every token of a later window keeps, at least"
    )

    @model_validator(mode="after")
    def _overlap_below_context(self) -> "_Windowed":
        if self.overlap >= self.context:
            raise ValueError(f"overlap ({self.overlap}) must be smaller than context ({self.context})")
        return self


class TeacherLMConfig(CausalLMConfig, _Windowed):
    """A causal LM that labels; documents longer than `context` are cut into overlapping windows."""

    dtype: DType = "float32"
    batch_tokens: int = Field(default=8192, ge=1, description="tokens (padding counted) per forward pass")
    tensor_parallel: int = Field(
        default=1, ge=1, description="processes that each replica is split over, by the plan of its class"
    )


class _Whole(Settings):
    """A teacher that is never split."""

    @model_validator(mode="before")
    @classmethod
    def _not_split(cls, given: Any) -> Any:
        if isinstance(given, dict) and "tensor_parallel" in given:
            raise ValueError(
                "tensor_parallel splits a teacher of type causal_lm that one device cannot hold over processes; got "
                f"{given['tensor_parallel']!r} for another type: leave it out, and set cluster.replicas for more copies"
            )
        return given


class FittedTeacher(_Whole):
    """A classifier that labels; with `fit` it is first trained on the recipe's own hard labels."""

    fit: TrainingConfig | None = Field(default=None, description="train the teacher on the spot with these settings")


class TeacherImageConfig(FittedTeacher, ImageClassifierConfig):
    """An image classifier that labels."""

    dtype: DType = "float32"
    batch_size: int = Field(default=256, ge=1, description="images per forward pass")


class TeacherTextClassifierConfig(FittedTeacher, TextClassifierConfig):
    """A text classifier that labels."""

    dtype: DType = "float32"
    batch_size: int = Field(default=64, ge=1, description="texts per forward pass")

    def exported(self, directory: str) -> "TeacherTextClassifierConfig":
        """The same teacher, with the weights and the tokenizer of `directory`."""
        own: dict[str, Any] = {"architecture": {}, "tokenizer": None, "revision": None}
        return self.model_copy(update={"path": directory, **own})


class TeacherEndpointConfig(_Whole, _Windowed):
    """A causal LM behind an HTTP endpoint that answers with the most probable tokens; for the codec `topk` alone.

    A request is a window and one token more, and the server adds one: `context` must be 2 below its limit, at least.
    """

    type: Literal["endpoint"] = "endpoint"
    # No '@': credentials in a URL would be shown in messages.
    url: str = Field(pattern=r"^https?://[^\s/@?#]+[^\s@?#]*$", description="what `/v1/completions` is appended to")
    model: str = Field(min_length=1, description="the name that the endpoint knows it by")
    revision: str = Field(min_length=1, description="your own word for its version, since an endpoint does not tell")
    tokenizer: Annotated[str, IsPath()] = Field(description="directory or hub name: that of the model behind it")
    protocol: Literal["vllm"] = Field(default="vllm", description="whose fields the requests and answers have")
    top_logprobs: int = Field(default=20, ge=1, description="tokens asked for per position; the endpoint has a limit")
    concurrency: int = Field(default=8, ge=1, le=256, description="requests that each replica has under way at once")
    timeout_seconds: float = Field(default=120.0, gt=0, description="for one answer")
    attempts: int = Field(default=5, ge=1, description="times that one request is tried")
    api_key_env: str | None = Field(default=None, description="environment variable that holds the key")

    @property
    def tokenizer_source(self) -> tuple[str, str | None]:
        """Directory or hub name of its tokenizer, and no revision."""
        return self.tokenizer, None


TeacherConfig = Annotated[
    TeacherLMConfig | TeacherImageConfig | TeacherTextClassifierConfig | TeacherEndpointConfig,
    Field(discriminator="type"),
]
"""Any `teacher`, told by its `type`."""
