"""A recipe: one YAML file that runs end to end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from kdcore.config.base import IsPath, Settings
from kdcore.config.cluster import ClusterConfig
from kdcore.config.data import DataConfig, HfDatasetData, kind_of
from kdcore.config.labels import CodecConfig, DenseConfig, LabelsConfig, ThresholdConfig, TopKConfig
from kdcore.config.losses import LossTerm
from kdcore.config.losses.response import CrossEntropyTerm, DivergenceTerm
from kdcore.config.models import FittedTeacher, ModelConfig, TeacherConfig, TeacherEndpointConfig, TeacherLMConfig
from kdcore.config.paths import path_settings
from kdcore.config.synthesis import SynthesisConfig
from kdcore.config.training import TrainingConfig
from kdcore.config.urls import check_url, is_url

_MODEL_OF = {"text": "causal_lm", "image": "image_classifier", "classified_text": "text_classifier"}
_OF_TEXT = ("packing", "long_documents", "sequence_length")
_LOSS_OF_TEXT = ("num_classes", "recompute", "implementation", "gradient_filter")


class EvaluationConfig(Settings):
    """What the report measures."""

    max_tokens: int = Field(default=40_000, ge=1, description="held-out tokens (text)")
    max_images: int = Field(
        default=10_000, ge=1, description="held-out images, or texts with classes: by hash, of more"
    )
    batch_size: int = Field(default=16, ge=1, description="documents (or images) per forward pass")
    calibration_bins: int = Field(
        default=15, ge=2, description="of equal width, for the calibration error; 15 is the literature's number"
    )


class Recipe(Settings):
    """Every setting of every job. `kd precompute`, `train` and `distill` read the same file."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="of the run, and of its folder in `runs`: a plain word"
    )
    runs: Annotated[str, IsPath(made=True)] = Field(default="runs", description="folder of run directories")
    data: DataConfig = Field(description="the samples, and which of them are held out")
    teacher: TeacherConfig | None = Field(default=None, description="the model that labels; none: hard labels alone")
    synthesis: SynthesisConfig | None = Field(
        default=None, description="samples that the teacher makes, learnt from in place of the training part of `data`"
    )
    labels: LabelsConfig = Field(default=LabelsConfig(), description="what is stored of the teacher, and where")
    student: ModelConfig | None = Field(default=None, description="the model that learns")
    training: TrainingConfig | None = Field(default=None, description="how the student learns")
    evaluation: EvaluationConfig = Field(default=EvaluationConfig(), description="what the report measures")
    cluster: ClusterConfig = Field(default=ClusterConfig(), description="where it is computed: no result hangs on it")

    @model_validator(mode="after")
    def _fits_together(self) -> "Recipe":
        self._check_urls()
        text = kind_of(self.data) == "text"
        kind = _MODEL_OF[kind_of(self.data)]
        for role, model in (("teacher", self.teacher), ("student", self.student)):
            fits = model is None or model.type == kind or (text and model.type == "endpoint")
            if model is not None and not fits:
                of_kind = f" and data.kind '{self.data.kind}'" if isinstance(self.data, HfDatasetData) else ""
                raise ValueError(
                    f"{role}.type is '{model.type}', but data.type '{self.data.type}'{of_kind} needs '{kind}'"
                )
        if isinstance(self.teacher, TeacherEndpointConfig):
            self._within_an_endpoint(self.teacher)
        if not text:
            self._of_images()
        if kind != "causal_lm" and self.codec.type == "span":
            raise ValueError(
                f"labels.codec.type 'span' is of the tokens of a text, and data.type '{self.data.type}' needs labels "
                "of classes: set it to dense, topk, threshold or sampled"
            )
        if self.ranks > 1:
            self._splittable(self.ranks)
        if self.labels.mix is not None and self.teacher is not None:
            raise ValueError("labels.mix learns from the teachers of finished stores: leave `teacher` out")
        self._apart(kind)
        self._sorted(kind)
        if self.training is not None and self.teacher is not None:
            self._trainable(self.training)
        if self.synthesis is not None:
            self._made(self.synthesis)
        return self

    def _apart(self, kind: str) -> None:
        apart = self.labels.mix is not None and self.labels.mix.rule == "apart"
        losses = () if self.training is None else self.training.losses
        if apart and not losses:
            raise ValueError(
                "labels.mix.rule 'apart' is for training.losses, which say what is heard of each teacher: list them, "
                "or set the rule to arithmetic"
            )
        if losses and kind == "causal_lm":
            _check_terms_of_text(losses, apart)
        for number, term in enumerate(losses):
            if term.teacher is not None and not apart:
                raise ValueError(
                    f"training.losses.{number}.teacher is of labels.mix with rule apart, and there is none: leave it"
                )

    def _sorted(self, kind: str) -> None:
        loss = None if self.training is None else self.training.loss
        if loss is None or not loss.is_sorted:
            return
        if kind != "causal_lm" or self.labels.mix is not None or self.labels_come_with_samples:
            raise ValueError(
                f"training.loss.type '{loss.type}' is of the tokens of a text, cut by two tokenizers, and takes the "
                "labels of one `teacher` for the documents of `data`: set another type (of labels.mix: kl)"
            )

    def _made(self, synthesis: SynthesisConfig) -> None:
        if self.teacher is None or isinstance(self.teacher, TeacherEndpointConfig):
            raise ValueError("synthesis needs a teacher with its weights at hand: add `teacher`")
        learns_between = synthesis.generations > 1 and synthesis.needs_student
        if learns_between and (self.student is None or self.training is None):
            raise ValueError("between generations of synthesis a student is trained: add `student` and `training`")
        if synthesis.kind != kind_of(self.data):
            raise ValueError(
                f"synthesis makes samples of kind '{synthesis.kind}', but data.type '{self.data.type}' is of kind "
                f"'{kind_of(self.data)}'"
            )

    def _check_urls(self) -> None:
        """No message repeats a URL: what is wrong with it may be a secret."""
        tree = self.model_dump()
        for setting in path_settings(type(self)):
            for path in filter(is_url, setting.values(tree)):
                if not setting.mark.url:
                    raise ValueError(f"{setting.dotted} must be on a file system that every node mounts, got a URL")
                if check_url(path, setting.dotted)[0] == "memory":
                    raise ValueError(
                        f"{setting.dotted} memory:// exists in one process alone: set a directory or s3://BUCKET/PREFIX"
                    )

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

    def _of_images(self) -> None:
        for name, training in (("training", self.training), ("teacher.fit", self.fit)):
            if training is None:
                continue
            for size in ("tokens_per_step", "micro_batch_tokens"):
                if getattr(training, size) is not None:
                    raise ValueError(f"{name}.{size} counts tokens, which images have none of: set batch_size")
            _refuse_of_text(training, name, _OF_TEXT)
            _refuse_of_text(training.loss, f"{name}.loss", _LOSS_OF_TEXT)

    def _splittable(self, ranks: int) -> None:
        if self.codec.type == "feature":
            raise ValueError(f"labels.codec.type 'feature' needs teacher.tensor_parallel 1, got {ranks}")
        if self.cluster.gpus_per_replica not in (0, 1):
            raise ValueError(
                f"cluster.gpus_per_replica holds for each of the {ranks} processes of teacher.tensor_parallel, which "
                f"needs a whole GPU or none, got {self.cluster.gpus_per_replica:g}"
            )

    def _trainable(self, training: TrainingConfig) -> None:
        """Labels that no loss can take are refused before they are made; of `losses`, once these are imported."""
        if training.losses:
            return
        if self.codec.type == "feature":
            raise ValueError("labels.codec.type 'feature' stores no distribution, which `training` needs: leave it out")
        problem = training.loss.misfit(self.codec.type)
        if problem is not None:
            raise ValueError(problem)

    @property
    def ranks(self) -> int:
        """Processes that one replica of the teacher is made of."""
        return self.teacher.tensor_parallel if isinstance(self.teacher, TeacherLMConfig) else 1

    @property
    def has_labels(self) -> bool:
        """Whether students learn from soft labels: of `teacher`, or of the stores of a mix."""
        return self.teacher is not None or self.labels.mix is not None

    @property
    def any_tokenizer(self) -> bool:
        """Whether students learn by the bytes of a text, and so may have a tokenizer of their own."""
        return self.codec.type == "span" or (self.training is not None and self.training.loss.is_sorted)

    @property
    def labels_come_with_samples(self) -> bool:
        """Whether what makes the samples labels them too, so that nobody else does: a language model."""
        return self.synthesis is not None and self.synthesis.kind == "text"

    @property
    def fit(self) -> TrainingConfig | None:
        """How the teacher is trained on the spot; None where it has its weights."""
        return self.teacher.fit if isinstance(self.teacher, FittedTeacher) else None

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

    @property
    def store_paths(self) -> tuple[str, ...]:
        """The label stores that students learn from: that of this recipe, or those of its mix."""
        return (self.store_path,) if self.labels.mix is None else tuple(store.path for store in self.labels.mix.stores)


def _check_terms_of_text(losses: Sequence[LossTerm], apart: bool) -> None:
    """ValueError for losses that a language model's students do not have."""
    if not apart:
        raise ValueError(
            "training.losses are losses of classifiers, and data are text: set training.loss instead; of text they are "
            "for labels.mix with rule apart"
        )
    for number, term in enumerate(losses):
        where = f"training.losses.{number}, {term.label}"
        if isinstance(term, DivergenceTerm) and term.teacher is None:
            raise ValueError(f"{where}: of text each divergence hears one teacher: set `teacher` to a store's number")
        if isinstance(term, DivergenceTerm) and not term.standardise:
            continue
        if not isinstance(term, CrossEntropyTerm) or term.smoothing or term.teacher is not None:
            raise ValueError(
                f"{where}: losses of text are divergences (kl, reverse_kl, jsd, skew_kl, skew_reverse_kl, "
                "total_variation, adaptive_kl) without `standardise`, and cross_entropy without `smoothing` and "
                "`teacher`"
            )
    if not any(isinstance(term, DivergenceTerm) for term in losses):
        raise ValueError("training.losses hear no teacher of labels.mix: add a divergence, such as kl, with `teacher`")


def _refuse_of_text(settings: Settings, where: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(settings, name) not in (type(settings).model_fields[name].default, False):
            raise ValueError(f"{where}.{name} is of text and would do nothing to images: leave it out")
