"""What a run on texts with classes would cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from cluster.estimate.parts import arms_of, cpu_share, label_bytes, seconds_of, sketch_of, trained_samples
from cluster.estimate.run import Estimate
from cluster.labelling.disk_room import store_bytes
from kdcore.config.models import TeacherTextClassifierConfig, TextClassifierConfig
from kdcore.config.recipe import Recipe
from kdcore.data.document import ClassifiedText
from kdcore.data.sources import open_source, readable
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import DataError
from kdcore.models.text_classifier import encode_texts, stacked
from kdcore.students.build import build_classified_text_student, tokenizer_path
from kdcore.training.needs import check_reads_alike
from kdcore.training.rehearsal import rehearse_losses

__all__ = ["estimate_classified"]

_SAMPLES_READ = 8


def estimate_classified(recipe: Recipe, live: bool) -> Estimate:
    """See `estimate`."""
    source, corpus = open_source(recipe.data), sketch_of(recipe)
    read = (sample for _, sample in readable(source, corpus.some, recipe.data.on_unreadable))
    texts = [(one.text, one.pair) for one in islice(read, _SAMPLES_READ) if isinstance(one, ClassifiedText)]
    if not texts:
        raise DataError(f"at least one text must be readable, none of {len(corpus.some)} is: set data.path")
    count, classes = corpus.num_samples, source.num_classes or 0
    teacher = recipe.teacher if isinstance(recipe.teacher, TeacherTextClassifierConfig) else None
    moment = _Moment(texts, classes, teacher)
    _rehearse(recipe, moment, live)
    train_seconds = _train_seconds(recipe, moment, count, live) / cpu_share(recipe.cluster.workers)
    if live or teacher is None:
        return Estimate(count, 0, 0, 0.0, train_seconds)
    label_seconds = moment.forward(teacher) * count / cpu_share(recipe.cluster.replicas.max)
    size = int(store_bytes(label_bytes(recipe, corpus, classes), count, count))
    return Estimate(count, count, size, label_seconds, train_seconds)


@dataclass(frozen=True)
class _Moment:
    """Seconds a text, of encoders for `classes`; a student may have its tokenizer of the `teacher`."""

    texts: Sequence[tuple[str, str | None]]
    classes: int
    teacher: TeacherTextClassifierConfig | None

    def tokenizer(self, config: TextClassifierConfig) -> Any:
        return load_tokenizer(*tokenizer_path(config, self.teacher))

    def network(self, config: TextClassifierConfig) -> tuple[nn.Module, Tensor]:
        """The network, and what it reads of the texts, int64 [B, 3, L]."""
        tokenizer = self.tokenizer(config)
        tokens = stacked(encode_texts(tokenizer, self.texts, config.max_length))
        return build_classified_text_student(config, tokenizer, self.classes), tokens

    def forward(self, config: TextClassifierConfig) -> float:
        model, tokens = self.network(config)
        return seconds_of(lambda: model(tokens)) / len(tokens)

    def trained(self, config: TextClassifierConfig) -> float:
        model, tokens = self.network(config)
        return seconds_of(lambda: model(tokens).logsumexp(1).sum().backward()) / len(tokens)


def _rehearse(recipe: Recipe, moment: _Moment, live: bool) -> None:
    """ConfigError for losses that do not suit the networks; TokenizerMismatch as training would raise it."""
    if not isinstance(recipe.student, TextClassifierConfig):
        return
    if live and moment.teacher is not None:
        ours, theirs = moment.tokenizer(recipe.student), moment.tokenizer(moment.teacher)
        check_reads_alike(recipe.student, ours, moment.teacher, theirs)
    student, tokens = moment.network(recipe.student)
    teacher = None if moment.teacher is None else moment.network(moment.teacher)[0]
    rehearse_losses(recipe, student, teacher, tokens[:1], moment.classes, live)


def _train_seconds(recipe: Recipe, moment: _Moment, count: int, live: bool) -> float:
    """Of a teacher that is trained on the spot, and of all arms, as if one after the other."""
    seconds, teacher, training = 0.0, moment.teacher, recipe.training
    if teacher is not None and teacher.fit is not None:
        seconds += moment.trained(teacher) * trained_samples(teacher.fit, count)
    if training is None or not isinstance(recipe.student, TextClassifierConfig):
        return seconds
    texts = trained_samples(training, count)
    seconds += moment.trained(recipe.student) * texts * arms_of(training)
    if live and teacher is not None:  # the baseline goes without it
        seconds += moment.forward(teacher) * texts * len(training.seeds)
    return seconds
