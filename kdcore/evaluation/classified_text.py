"""Quality of encoders on held-out texts with classes. Each reads the texts with its own tokenizer."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdcore.config import Recipe
from kdcore.config.models import TeacherTextClassifierConfig, TextClassifierConfig
from kdcore.data.document import ClassifiedText
from kdcore.data.tokenizer import load_tokenizer
from kdcore.models.text_classifier import TokenClassifier, encode_texts, stacked
from kdcore.students.build import tokenizer_path
from kdcore.teachers.text_classifier import TextClassifierTeacher, Texts

__all__ = ["text_batches", "text_classifiers"]


def text_classifiers(recipe: Recipe, num_classes: int, students: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of the teacher, where the recipe has one, and of each student: the model, and a function of texts to logits."""
    config, student = recipe.teacher, recipe.student
    assert isinstance(student, TextClassifierConfig)  # recipes with another are refused
    found: dict[str, tuple[Any, Any]] = {}
    teacher = config if isinstance(config, TeacherTextClassifierConfig) else None
    if teacher is not None:
        loaded = TextClassifierTeacher(teacher, num_classes)
        found["teacher"] = (loaded.model, partial(_logits, loaded.network, loaded.tokenizer, teacher.max_length))
    tokenizer = load_tokenizer(*tokenizer_path(student, teacher))
    for arm, model in students.items():
        found[arm] = (model, partial(_logits, TokenClassifier(model, tokenizer), tokenizer, student.max_length))
    return found


def text_batches(texts: Sequence[ClassifiedText], batch: int) -> list[tuple[Texts, Tensor]]:
    """Texts and their classes int64 [B]."""
    parts = [texts[first : first + batch] for first in range(0, len(texts), batch)]
    return [([(one.text, one.pair) for one in part], torch.tensor([one.target for one in part])) for part in parts]


def _logits(network: TokenClassifier, tokenizer: Any, max_length: int, texts: Texts) -> Tensor:
    inputs = stacked(encode_texts(tokenizer, texts, max_length))
    return network(inputs.to(network.model.device))
