"""What a run on texts with classes would cost."""

from collections.abc import Sequence
from itertools import islice

from torch import nn

from cluster.estimate.parts import arms_of, cpu_share, learnt_codec, seconds_of, sketch_of, trained_samples
from cluster.estimate.run import Estimate
from cluster.labelling.disk_room import store_bytes
from cluster.labelling.replica.classified_answers import ClassifiedTextAnswers
from cluster.labelling.replica.loading import load_answers
from kdcore.config.models import TextClassifierConfig
from kdcore.config.recipe import Recipe
from kdcore.data.document import ClassifiedText
from kdcore.data.sources import open_source, readable
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import DataError
from kdcore.models.text_classifier import encode_texts, stacked
from kdcore.students.build import build_classified_text_student, tokenizer_path
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
    count, per_label, of_teacher = corpus.num_samples, 0.0, 0.0
    answers = None if recipe.teacher is None else load_answers(recipe, source)
    assert isinstance(answers, ClassifiedTextAnswers | None)
    network = None if answers is None else answers.teacher.network
    train_seconds = _train_seconds(recipe, network, texts, source.num_classes or 0, count, live)
    if answers is not None:
        inputs = answers.teacher.encode(texts)
        of_teacher = seconds_of(lambda: answers.teacher.logits(inputs)) / len(texts)
        per_label = 0.0 if live else learnt_codec(recipe, source, corpus, answers).bytes_per_label()
    if live and recipe.training is not None:  # the baseline goes without it
        train_seconds += of_teacher * trained_samples(recipe.training, count) * len(recipe.training.seeds)
    train_seconds /= cpu_share(recipe.cluster.workers)
    if live:
        return Estimate(count, 0, 0, 0.0, train_seconds)
    label_seconds = of_teacher * count / cpu_share(recipe.cluster.replicas.max)
    return Estimate(count, count, int(store_bytes(per_label, count, count)), label_seconds, train_seconds)


def _train_seconds(
    recipe: Recipe,
    network: nn.Module | None,
    texts: Sequence[tuple[str, str | None]],
    classes: int,
    count: int,
    live: bool,
) -> float:
    """Of all arms, as if one after the other. ConfigError for losses that do not suit student and teacher `network`."""
    if recipe.training is None or not isinstance(recipe.student, TextClassifierConfig):
        return 0.0
    teacher = recipe.teacher if isinstance(recipe.teacher, TextClassifierConfig) else None
    tokenizer = load_tokenizer(*tokenizer_path(recipe.student, teacher))
    model = build_classified_text_student(recipe.student, tokenizer, classes)
    batch = stacked(encode_texts(tokenizer, texts, recipe.student.max_length))
    rehearse_losses(recipe, model, network, batch[:1], classes, live)
    per_text = seconds_of(lambda: model(batch).logsumexp(1).sum().backward()) / len(texts)
    return per_text * trained_samples(recipe.training, count) * arms_of(recipe.training)
