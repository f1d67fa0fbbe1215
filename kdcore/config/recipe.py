"""A recipe: one YAML file that runs end to end."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field, model_validator

from kdcore.config.base import Settings
from kdcore.config.cluster import ClusterConfig
from kdcore.config.data import DataConfig, kind_of
from kdcore.config.labels import CodecConfig, DenseConfig, LabelsConfig, ThresholdConfig, TopKConfig
from kdcore.config.models import ModelConfig, TeacherConfig, TeacherEndpointConfig, TeacherLMConfig
from kdcore.config.training import TrainingConfig
from kdcore.config.urls import check_url, is_url


class EvaluationConfig(Settings):
    """What the report measures."""

    max_tokens: int = Field(default=40_000, ge=1, description="held-out tokens (text)")
    max_images: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=16, ge=1)
    calibration_bins: int = Field(default=15, ge=2)


class Recipe(Settings):
    """Every setting of every job. `kd precompute`, `train` and `distill` read the same file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    runs: str = Field(default="runs", description="folder of run directories")
    data: DataConfig
    teacher: TeacherConfig | None = None
    labels: LabelsConfig = LabelsConfig()
    student: ModelConfig | None = None
    training: TrainingConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        for setting, path in self._places():
            if is_url(path) and check_url(path, setting)[0] == "memory":
                raise ValueError(
                    f"{setting} memory:// exists in one process alone: set a directory or s3://BUCKET/PREFIX"
                )
        text = kind_of(self.data) == "text"
        kind = "causal_lm" if text else "image_classifier"
        for role, model in (("teacher", self.teacher), ("student", self.student)):
            fits = model is None or model.type == kind or (text and model.type == "endpoint")
            if model is not None and not fits:
                raise ValueError(f"{role}.type is '{model.type}', but data.type '{self.data.type}' needs '{kind}'")
        if isinstance(self.teacher, TeacherEndpointConfig):
            self._within_an_endpoint(self.teacher)
        if text and self.training is not None and self.training.loss.temperature != 1.0:
            raise ValueError("training.loss.temperature applies to image labels; text labels are taken at 1")
        if self.ranks > 1:
            self._splittable(self.ranks)
        if self.training is not None and self.teacher is not None:
            self._trainable(self.training)
        return self

    def _places(self) -> Iterator[tuple[str, str]]:
        """Settings whose values are paths or URLs, each with its values."""
        if self.labels.path is not None:
            yield "labels.path", self.labels.path
        for name in ("path", "heldout"):
            value = getattr(self.data, name, None) or ()
            for path in (value,) if isinstance(value, str) else value:
                yield f"data.{name}", path

    def _within_an_endpoint(self, teacher: TeacherEndpointConfig) -> None:
        codec = self.codec
        if not isinstance(codec, TopKConfig):
            raise ValueError(
                f"teacher.type 'endpoint' gives its most probable tokens, not a distribution, which labels.codec.type "
                f"'{codec.type}' needs: set it to topk, or leave it out"
            )
        if codec.k > teacher.top_logprobs:
            raise ValueError(
                f"labels.codec.k must be within teacher.top_logprobs of an endpoint: {codec.k} is more than "
                f"{teacher.top_logprobs}"
            )

    def _splittable(self, ranks: int) -> None:
        if self.codec.type == "feature":
            raise ValueError(f"labels.codec.type 'feature' needs teacher.tensor_parallel 1, got {ranks}")
        if self.cluster.gpus_per_replica not in (0, 1):
            raise ValueError(
                f"cluster.gpus_per_replica holds for each of the {ranks} processes of teacher.tensor_parallel, which "
                f"needs a whole GPU or none, got {self.cluster.gpus_per_replica:g}"
            )

    def _trainable(self, training: TrainingConfig) -> None:
        """Labels that no loss can take are refused before they are made."""
        if self.codec.type == "feature":
            raise ValueError("labels.codec.type 'feature' stores no distribution, which `training` needs: leave it out")
        if training.loss.temperature != 1.0 and self.codec.type != "dense":
            raise ValueError(
                f"training.loss.temperature {training.loss.temperature:g} needs every class's probability: set "
                f"labels.codec.type to dense, not {self.codec.type}"
            )

    @property
    def ranks(self) -> int:
        """Processes that one replica of the teacher is made of."""
        return self.teacher.tensor_parallel if isinstance(self.teacher, TeacherLMConfig) else 1

    @property
    def run_dir(self) -> Path:
        """The run directory, RUNS/NAME."""
        return Path(self.runs) / self.name

    @property
    def codec(self) -> CodecConfig:
        """How labels are kept: as set, else `threshold` for text, `topk` of an endpoint and `dense` for images."""
        if self.labels.codec is not None:
            return self.labels.codec
        if isinstance(self.teacher, TeacherEndpointConfig):
            return TopKConfig(k=min(16, self.teacher.top_logprobs))
        return ThresholdConfig() if kind_of(self.data) == "text" else DenseConfig()

    @property
    def store_path(self) -> str:
        """The label store of this recipe: a directory, or a URL such as s3://bucket/prefix."""
        return self.labels.path or str(self.run_dir / "labels")
