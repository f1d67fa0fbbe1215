"""What the losses of a recipe need of its teacher and its data, and whether it is there."""

from collections.abc import Collection, Sequence
from typing import Any

from kdcore.config import Recipe
from kdcore.config.data import DataConfig, kind_of
from kdcore.config.labels import (
    CodecConfig,
    DenseConfig,
    FeatureConfig,
    SampledConfig,
    SpanConfig,
    ThresholdConfig,
    TopKConfig,
)
from kdcore.config.loss import KIND_OF_CODEC, LabelKind
from kdcore.config.losses import LossTerm
from kdcore.config.losses.base import FeatureTerm
from kdcore.config.models import TextClassifierConfig
from kdcore.config.views import ViewPolicy
from kdcore.errors import ConfigError, TokenizerMismatch
from kdcore.identity import digest_tokenizer
from kdcore.labels import Codec, FeatureCodec
from kdcore.losses.registry import method_class
from kdcore.taps import WHOLE

__all__ = ["check_apart", "check_kinds", "check_losses", "check_reads_alike"]


def check_losses(recipe: Recipe) -> str | None:
    """Why the recipe's teacher runs while students are trained, in words; None where they learn from its store.

    ConfigError for a loss that needs what will not be there, with the setting to change. Imports the methods.
    """
    fit, training = recipe.fit, recipe.training
    if training is not None:
        _refuse_unfit_data(recipe.data, training.losses)
    if fit is not None:
        _refuse_unfit_data(recipe.data, fit.losses)
        _refuse_without_teacher(fit.losses, "teacher.fit.losses", "leave it out")
    if training is None or not training.losses:
        return None
    if recipe.labels.mix is not None:
        if recipe.labels.mix.rule != "apart":  # what their stores have is known only when they are opened
            _refuse_beyond_labels(training.losses)
        return None
    if recipe.teacher is None:
        _refuse_without_teacher(training.losses, "training.losses", "add `teacher`")
        return None
    lacks = [f"{term.label} needs {lack}" for term in training.losses if (lack := _lacking(term, recipe.codec))]
    if training.live_teacher is True:
        return "training.live_teacher is true"
    what = "; ".join(dict.fromkeys(lacks))
    if what and training.live_teacher is False:
        raise ConfigError(
            f"training.losses must find all they need in the store where training.live_teacher is false, but labels "
            f"of labels.codec.type '{recipe.codec.type}' lack something: {what}. "
            f"{_remedy(training.losses, kind_of(recipe.data))}"
        )
    return what or None


def _refuse_unfit_data(data: DataConfig, terms: Sequence[LossTerm]) -> None:
    """ConfigError for a loss that needs pixels where there are none, or one image where pictures are mixed of two."""
    views = getattr(data, "views", None)
    mixed = isinstance(views, ViewPolicy) and views.mix is not None
    for term in terms:
        method = method_class(term)
        if method.needs_pixels and kind_of(data) != "image":
            raise ConfigError(
                f"the loss '{term.label}' looks at the pixels of images, and data.type '{data.type}' has none: leave "
                "it out; losses of logits, features and relations do for texts with classes (METHODS.md)"
            )
        if method.needs_one_class and mixed:
            raise ConfigError(
                f"the loss '{term.label}' needs one class a picture, and data.views.mix makes pictures of two: leave "
                "data.views.mix out, or use losses that know shares or no hard label, such as cross_entropy and kl"
            )
        if method.memories_of(term) and mixed:
            raise ConfigError(
                f"the loss '{term.label}' remembers each picture, and data.views.mix makes pictures of two: leave "
                "data.views.mix out, or use a loss without a memory (crd has one unless it is told `contrast: batch`)"
            )


def check_reads_alike(
    student: TextClassifierConfig, tokenizer: Any, teacher: TextClassifierConfig, teacher_tokenizer: Any
) -> None:
    """TokenizerMismatch or ConfigError where a teacher that runs beside its student would read other tokens."""
    ours, theirs = digest_tokenizer(tokenizer), digest_tokenizer(teacher_tokenizer)
    if ours != theirs:
        raise TokenizerMismatch(
            f"a teacher that runs beside the student reads the student's tokens: its tokenizer is {theirs}, the "
            f"student's {ours}. Set student.tokenizer to the teacher's, or learn from stored labels alone"
        )
    if student.max_length != teacher.max_length:
        raise ConfigError(
            "a teacher that runs beside the student reads the student's tokens, so that both cut texts at one length: "
            f"teacher.max_length is {teacher.max_length}, student.max_length {student.max_length}: set them alike"
        )


def check_kinds(terms: Sequence[LossTerm], kinds: Collection[LabelKind]) -> None:
    """ConfigError for a loss that needs the logits of all classes, where labels that are `kinds` do not have them."""
    for term in terms:
        method = method_class(term)
        unfit = [kind for kind in sorted(kinds) if kind != "dense" and not method.takes_labels(term, kind)]
        if method.needs_teacher_logits and unfit:
            raise ConfigError(
                f"the loss '{term.label}' needs the logits of all classes, but the stores of labels.mix give labels "
                f"that are {unfit[0]}: label all of them with labels.codec.type dense, or leave the loss out"
            )


def check_apart(terms: Sequence[LossTerm], codecs: Sequence[Codec]) -> None:
    """ConfigError for a loss that needs what the store of the teacher it hears (or all of them) does not have."""
    for term in terms:
        method = method_class(term)
        if term.teacher is not None and term.teacher >= len(codecs):
            raise ConfigError(
                f"the loss '{term.label}' hears teacher {term.teacher}, and labels.mix has the stores 0 to "
                f"{len(codecs) - 1}: set its `teacher` to one of them"
            )
        if term.teacher is None and isinstance(term, FeatureTerm) and term.teacher_paths and not method.hears_all:
            raise ConfigError(
                f"the loss '{term.label}' compares features of one teacher, and labels.mix keeps {len(codecs)} apart: "
                "set its `teacher` to the number of the store that has them; one entry of training.losses for each"
            )
        heard = [_settings_of(codec) for codec in (codecs if term.teacher is None else [codecs[term.teacher]])]
        said = heard
        if term.teacher is None and not method.hears_all:  # a mean is one of distributions
            said = [DenseConfig()] if method.needs_raw_logits(term) else _of_mean(heard)
        lacks = [lack for codec in said if (lack := _lacking(term, codec)) is not None]
        if lacks:
            raise ConfigError(
                f"the loss '{term.label}' needs {lacks[0]}, which a store of labels.mix that it hears does not have: "
                "set its `teacher` to one that does, its temperature to 1 (of labels that name few classes), another "
                "labels.codec where that store is made, or leave the loss out"
            )


def _settings_of(codec: Codec) -> CodecConfig:
    """The settings of a store's codec, as far as losses ask."""
    if isinstance(codec, FeatureCodec):
        return FeatureConfig(layers=tuple(codec.shape_of()))
    kinds = {"threshold": ThresholdConfig, "sampled": SampledConfig, "topk": TopKConfig, "span": SpanConfig}
    return kinds.get(codec.name, DenseConfig)()


def _of_mean(codecs: Sequence[CodecConfig]) -> Sequence[CodecConfig]:
    """Those that say what a mean of their labels is: one of features is left out of it, and dense ones become cells."""
    said = [codec for codec in codecs if not isinstance(codec, FeatureConfig) or WHOLE in codec.layers]
    few = [codec for codec in said if not isinstance(codec, DenseConfig | FeatureConfig)]
    return few or said or codecs


def _refuse_beyond_labels(terms: Sequence[LossTerm]) -> None:
    for term in terms:
        lack = _lacking(term, DenseConfig())
        if lack is not None:
            raise ConfigError(
                f"the loss '{term.label}' needs {lack}, but labels.mix has what its stores say of each sample alone: "
                "leave it out, or learn from one teacher"
            )


def _needs_teacher(term: LossTerm) -> bool:
    """Whether a loss looks at a teacher at all."""
    method = method_class(term)
    theirs = isinstance(term, FeatureTerm) and bool(term.teacher_paths)
    return theirs or method.needs_teacher_logits or method.needs_live_teacher


def _refuse_without_teacher(terms: Sequence[LossTerm], where: str, remedy: str) -> None:
    for term in terms:
        if _needs_teacher(term):
            raise ConfigError(f"{where}: the loss '{term.label}' needs a teacher, and there is none here: {remedy}")


def _lacking(term: LossTerm, codec: CodecConfig) -> str | None:
    """What a loss needs that labels of this codec do not have, in words."""
    method = method_class(term)
    if method.needs_live_teacher:
        return "passes of the teacher of its own"
    stored = codec.layers if isinstance(codec, FeatureConfig) else ()
    wanted = term.teacher_paths if isinstance(term, FeatureTerm) else ()
    missing = [path for path in wanted if path not in stored]
    if missing:
        return f"features of {', '.join(missing)}"
    if method.needs_raw_logits(term) and WHOLE not in stored:
        return "logits as the network gives them, not log-probabilities"
    if method.needs_teacher_logits and not (isinstance(codec, DenseConfig) or WHOLE in stored):
        kind = KIND_OF_CODEC.get(codec.type)
        return None if kind not in (None, "spans") and method.takes_labels(term, kind) else "the logits of all classes"
    return None


def _remedy(terms: Sequence[LossTerm], kind: str) -> str:
    methods = [method_class(term) for term in terms]
    if any(method.needs_live_teacher for method in methods):
        return "Set training.live_teacher: auto"
    named = [path for term in terms if isinstance(term, FeatureTerm) for path in term.teacher_paths]
    layers = [*named, WHOLE] if any(method.needs_teacher_logits for method in methods) else named
    of_features = named or any(method.needs_raw_logits(term) for method, term in zip(methods, terms, strict=True))
    codec = f"{{type: feature, layers: [{', '.join(dict.fromkeys(layers))}]}}" if of_features else "{type: dense}"
    note = " (of a text's tokens a store has the first)" if kind == "classified_text" and set(named) - {WHOLE} else ""
    return f"Set labels.codec: {codec}{note}, or training.live_teacher: auto"
