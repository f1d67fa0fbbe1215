"""The teacher of a recipe, loaded, behind the interface of its kind of samples."""

from cluster.labelling.answers import ImageAnswers, TextAnswers
from kdcore.config import Recipe
from kdcore.config.labels import FeatureConfig
from kdcore.config.models import TeacherLMConfig
from kdcore.data.encoding import TextEncoder
from kdcore.data.sources import Source
from kdcore.errors import ConfigError
from kdcore.teachers.causal_lm import CausalLMTeacher
from kdcore.teachers.image_classifier import ImageTeacher
from kdcore.teachers.split import LeadingTeacher

__all__ = ["load_answers"]


def load_answers(recipe: Recipe, source: Source) -> "TextAnswers | ImageAnswers":
    """The recipe's teacher behind the interface of its kind of samples."""
    config = recipe.teacher
    layers = recipe.codec.layers if isinstance(recipe.codec, FeatureConfig) else ()
    seed: int = getattr(recipe.codec, "seed", 0)
    if isinstance(config, TeacherLMConfig):
        split = config.tensor_parallel > 1
        teacher = LeadingTeacher(config, recipe.cluster.rank_timeout_seconds) if split else CausalLMTeacher(config)
        return TextAnswers(teacher, config, layers, seed, TextEncoder(teacher.tokenizer, recipe.data))
    assert config is not None
    if source.num_classes is None or source.num_channels is None:
        raise ConfigError("an image teacher needs image data: set `data` to an image source")
    return ImageAnswers(ImageTeacher(config, source.num_classes, source.num_channels), config, layers, seed)
