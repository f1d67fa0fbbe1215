"""The teacher of a recipe, loaded, behind the interface of its kind of samples."""

from typing import Any

from cluster.labelling.replica.answers import TextAnswers
from cluster.labelling.replica.classified_answers import ClassifiedTextAnswers
from cluster.labelling.replica.endpoint_answers import EndpointAnswers
from cluster.labelling.replica.image_answers import ImageAnswers
from kdcore.config import Recipe
from kdcore.config.labels import FeatureConfig, SpanConfig, TopKConfig
from kdcore.config.models import TeacherEndpointConfig, TeacherLMConfig, TeacherTextClassifierConfig
from kdcore.data.byte_ends import TokenBytes
from kdcore.data.encoding import TextEncoder
from kdcore.data.sources import Source
from kdcore.data.viewed import view_spec
from kdcore.errors import ConfigError
from kdcore.identity import digest_tokenizer
from kdcore.teachers.base import Teacher
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.endpoint import EndpointTeacher
from kdcore.teachers.image_classifier import ImageTeacher
from kdcore.teachers.split import LeadingTeacher
from kdcore.teachers.text_classifier import TextClassifierTeacher

__all__ = ["Answers", "asked_of", "asked_of_teacher", "load_answers", "unsplit"]

Answers = TextAnswers | EndpointAnswers | ImageAnswers | ClassifiedTextAnswers
"""A teacher behind the interface of its kind of samples."""


def load_answers(recipe: Recipe, source: Source) -> Answers:
    """The recipe's teacher behind the interface of its kind of samples."""
    config = recipe.teacher
    layers = recipe.codec.layers if isinstance(recipe.codec, FeatureConfig) else ()
    seed: int = getattr(recipe.codec, "seed", 0)
    if isinstance(config, TeacherLMConfig):
        split = config.tensor_parallel > 1
        teacher = LeadingTeacher(config, recipe.cluster.rank_timeout_seconds) if split else CausalLMTeacher(config)
        of_bytes = isinstance(recipe.codec, SpanConfig)
        marks = TokenBytes(teacher.tokenizer).boundaries(teacher.num_classes) if of_bytes else None
        return TextAnswers(teacher, config, seed, TextEncoder(teacher.tokenizer, recipe.data, of_bytes), layers, marks)
    if isinstance(config, TeacherEndpointConfig):
        assert isinstance(recipe.codec, TopKConfig)  # recipes with another are refused
        teacher = EndpointTeacher(config)
        k = min(recipe.codec.k, teacher.num_classes)
        return EndpointAnswers(teacher, config, seed, TextEncoder(teacher.tokenizer, recipe.data), k, recipe.codec.bits)
    assert config is not None
    if isinstance(config, TeacherTextClassifierConfig):
        assert source.num_classes is not None  # recipes with other data are refused
        return ClassifiedTextAnswers(TextClassifierTeacher(config, source.num_classes), config, layers, seed)
    if source.num_classes is None or source.num_channels is None:
        raise ConfigError("an image teacher needs image data: set `data` to an image source")
    teacher = ImageTeacher(config, source.num_classes, source.num_channels)
    return ImageAnswers(teacher, config, layers, seed, view_spec(recipe.data))


def unsplit(recipe: Recipe) -> Recipe:
    """With the teacher whole, in one process."""
    if recipe.ranks == 1 or recipe.teacher is None:
        return recipe
    return recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"tensor_parallel": 1})})


def asked_of(answers: Answers) -> dict[str, Any]:
    """What an identity says of labels beyond their codec, input and versions: who made them, and of what."""
    return {**asked_of_teacher(answers.teacher), "numerics": answers.numerics(), **answers.reading()}


def asked_of_teacher(teacher: Teacher) -> dict[str, Any]:
    """What an identity says of who made labels."""
    tokenizer = teacher.tokenizer
    return {
        "kind": teacher.kind,
        "teacher": teacher.identity(),
        "tokenizer": None if tokenizer is None else digest_tokenizer(tokenizer),
        "vocabulary": teacher.num_classes,
    }
