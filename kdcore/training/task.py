"""What an arm trains on what: samples, network, and what its export needs."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.config.models import (
    CausalLMConfig,
    TeacherEndpointConfig,
    TeacherImageConfig,
    TeacherTextClassifierConfig,
    TextClassifierConfig,
)
from kdcore.data.chat import read_template
from kdcore.data.sources import Source, open_source
from kdcore.data.tokenizer import load_tokenizer
from kdcore.losses.compose import LOSSES, paths_apart, teacher_paths
from kdcore.students.build import (
    build_classified_text_student,
    build_image_student,
    build_text_student,
    tokenizer_path,
)
from kdcore.teachers.image_classifier import ImageTeacher
from kdcore.teachers.text_classifier import TextClassifierTeacher
from kdcore.training.arms import Arm, arm_terms, with_fitted_teacher
from kdcore.training.batches import Samples
from kdcore.training.classified_samples import ClassifiedTextSamples, classified_text_samples
from kdcore.training.composition import Composition, compose
from kdcore.training.image_samples import ImageSamples, image_samples
from kdcore.training.needs import check_losses, check_reads_alike
from kdcore.training.teacher_side import LiveTeacher, NoTeacher, StoredTeacher, StoredTeachers, TeacherSide
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
    live = check_losses(recipe)
    uses_store = arm.uses_labels and live is None
    endless = not recipe.has_labels or arm.role == "teacher" or live is not None
    samples = image_samples(recipe, source, uses_store, endless)
    if arm.uses_labels and live is not None:
        samples.notes = (*samples.notes, _beside(live))
    classes, channels = samples.num_classes, samples.num_channels
    export = {"image_config": model, "num_classes": classes, "in_channels": channels}
    return Task(samples, partial(build_image_student, model, classes, channels), export)


def _classified_text_task(recipe: Recipe, arm: Arm, model: TextClassifierConfig, source: Source) -> Task:
    teacher = recipe.teacher if isinstance(recipe.teacher, TextClassifierConfig) else None
    tokenizer = load_tokenizer(*tokenizer_path(model, teacher))
    live = check_losses(recipe)
    uses_store = arm.uses_labels and live is None
    samples = classified_text_samples(recipe, source, tokenizer, model.max_length, uses_store)
    if arm.uses_labels and live is not None:
        samples.notes = (*samples.notes, _beside(live))
    build = partial(build_classified_text_student, model, tokenizer, samples.num_classes)
    return Task(samples, build, {"tokenizer": tokenizer})


def _beside(reason: str) -> str:
    return f"the teacher runs beside the student, no store is read: {reason}"


def compose_task(recipe: Recipe, arm: Arm, task: Task, student: nn.Module, device: torch.device) -> Composition | None:
    """The losses that a recipe lists, for this arm's student; None where it lists none.

    The parameters of methods come from the torch seed, whatever the teacher. Raises what building them does.
    """
    terms, samples = arm_terms(recipe, arm), task.samples
    if not terms or not isinstance(samples, ImageSamples | ClassifiedTextSamples):
        return None
    side: TeacherSide = NoTeacher()
    if arm.uses_labels and samples.codecs:
        side = StoredTeachers(samples.codecs, paths_apart(terms, len(samples.codecs)), samples.moments)
    elif arm.uses_labels and samples.has_labels:
        side = StoredTeacher(samples.codec, teacher_paths(terms), samples.moments[0])
    elif arm.uses_labels:
        with torch.random.fork_rng(devices=[]):
            model = _live_teacher(recipe, samples, device)
        side = LiveTeacher(model, teacher_paths(terms))
    example = samples.batch(np.zeros(0, dtype=np.int64)).inputs
    where = "teacher.fit.losses" if arm.role == "teacher" else LOSSES
    return compose(student, terms, side, example, samples.num_classes, len(samples), where)


def _live_teacher(recipe: Recipe, samples: ImageSamples | ClassifiedTextSamples, device: torch.device) -> nn.Module:
    config = with_fitted_teacher(recipe).teacher
    if isinstance(samples, ImageSamples):
        assert isinstance(config, TeacherImageConfig)
        return ImageTeacher(config, samples.num_classes, samples.num_channels, str(device)).model
    assert isinstance(config, TeacherTextClassifierConfig)
    teacher = TextClassifierTeacher(config, samples.num_classes, str(device))
    assert isinstance(recipe.student, TextClassifierConfig)
    check_reads_alike(recipe.student, samples.tokenizer, config, teacher.tokenizer)
    return teacher.network


def _with_template(tokenizer: Any, recipe: Recipe) -> Any:
    """The tokenizer that goes with the student: it renders conversations as they were trained on."""
    if not isinstance(recipe.data, RowData) or recipe.data.chat_template is None:
        return tokenizer
    other = copy.deepcopy(tokenizer)
    other.chat_template = read_template(recipe.data.chat_template)
    return other
