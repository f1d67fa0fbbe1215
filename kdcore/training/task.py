"""What an arm trains on what: samples, network, and what its export needs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.config.models import CausalLMConfig, TeacherEndpointConfig, TextClassifierConfig
from kdcore.data.chat import read_template
from kdcore.data.sources import Source, open_source
from kdcore.data.tokenizer import load_tokenizer
from kdcore.students.build import (
    build_classified_text_student,
    build_image_student,
    build_text_student,
    tokenizer_path,
)
from kdcore.training.arms import Arm
from kdcore.training.batches import Samples
from kdcore.training.classified_samples import classified_text_samples
from kdcore.training.image_samples import image_samples
from kdcore.training.text_samples import text_samples


@dataclass(frozen=True)
class Task:
    """`build` makes the network (weights from the torch seed); `export` holds the keywords of `export_student`."""

    samples: Samples
    build: Callable[[], nn.Module]
    export: dict[str, Any]


def make_task(recipe: Recipe, arm: Arm) -> Task:
    """Opens data, store and tokenizer of an arm; raises their errors."""
    model, config = arm.model_config(recipe), arm.training_config(recipe)
    if isinstance(model, CausalLMConfig):
        teacher = recipe.teacher if isinstance(recipe.teacher, CausalLMConfig | TeacherEndpointConfig) else None
        tokenizer = load_tokenizer(*tokenizer_path(model, teacher))
        samples = text_samples(recipe, tokenizer, arm.uses_labels, config.sequence_length, config.long_documents)
        exported = _with_template(tokenizer, recipe)
        return Task(samples, partial(build_text_student, model, tokenizer), {"tokenizer": exported})
    source = open_source(recipe.data)
    if isinstance(model, TextClassifierConfig):
        return _classified_text_task(recipe, arm, model, source)
    endless = recipe.teacher is None or arm.role == "teacher"
    samples = image_samples(recipe, source, arm.uses_labels, endless)
    classes, channels = samples.num_classes, samples.num_channels
    export = {"image_config": model, "num_classes": classes, "in_channels": channels}
    return Task(samples, partial(build_image_student, model, classes, channels), export)


def _classified_text_task(recipe: Recipe, arm: Arm, model: TextClassifierConfig, source: Source) -> Task:
    teacher = recipe.teacher if isinstance(recipe.teacher, TextClassifierConfig) else None
    tokenizer = load_tokenizer(*tokenizer_path(model, teacher))
    samples = classified_text_samples(recipe, source, tokenizer, model.max_length, arm.uses_labels)
    build = partial(build_classified_text_student, model, tokenizer, samples.num_classes)
    return Task(samples, build, {"tokenizer": tokenizer})


def _with_template(tokenizer: Any, recipe: Recipe) -> Any:
    """The tokenizer that goes with the student: it renders conversations as they were trained on."""
    if not isinstance(recipe.data, RowData) or recipe.data.chat_template is None:
        return tokenizer
    other = copy.deepcopy(tokenizer)
    other.chat_template = read_template(recipe.data.chat_template)
    return other
