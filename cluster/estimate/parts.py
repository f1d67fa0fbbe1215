"""What estimates of every kind of sample are made of: seconds, shares of this machine, a sketch, a codec."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

from cluster.labelling.replica.endpoint_answers import EndpointAnswers
from cluster.labelling.replica.loading import Answers, load_answers
from cluster.labelling.replica.replica import probe_batches
from kdcore.config.recipe import Recipe
from kdcore.config.training import TrainingConfig
from kdcore.data.sources import Source, open_source
from kdcore.labels import Codec
from kdcore.labels.learn import fixed_codec, learn_codec
from kdcore.planning import Corpus, Sketch, sketch

__all__ = ["arms_of", "cpu_share", "label_bytes", "learnt_codec", "seconds_of", "sketch_of", "trained_samples"]

_LABELS_PROBED = 2048
_BLOCK_BYTES = 64 << 20


def seconds_of(work: Callable[[], object]) -> float:
    """Best of two timed runs after one for warming up."""
    work()
    times: list[float] = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def cpu_share(processes: int) -> float:
    """How many of `processes` really run at once on this machine."""
    return float(min(processes, os.cpu_count() or 1))


def sketch_of(recipe: Recipe) -> Sketch:
    """The size of the recipe's training split, about, and some of its samples."""
    return sketch(replace(Corpus.of(recipe.data), block_bytes=_BLOCK_BYTES), _LABELS_PROBED)


def learnt_codec(recipe: Recipe, source: Source, corpus: Sketch, answers: Answers) -> Codec:
    """What the labelling job would learn, from fewer labels."""
    if isinstance(answers, EndpointAnswers):
        return answers.teacher.codec(answers.k)
    settings = recipe.labels.model_copy(update={"probe_labels": min(recipe.labels.probe_labels, _LABELS_PROBED)})
    batches = probe_batches(corpus.some, source, answers, recipe.model_copy(update={"labels": settings}))
    return learn_codec(recipe.codec, answers.teacher.num_classes, batches, answers.layers(source, corpus.some)).codec


def label_bytes(recipe: Recipe, corpus: Sketch, classes: int) -> float:
    """Of a classifier's label; one that is still to be trained says nothing of a codec that is learnt: as if dense."""
    codec = fixed_codec(recipe.codec, classes)
    if codec is not None:
        return codec.bytes_per_label()
    if recipe.fit is not None:
        return 2.0 * classes
    source = open_source(recipe.data)
    return learnt_codec(recipe, source, corpus, load_answers(recipe, source)).bytes_per_label()


def trained_samples(training: TrainingConfig, samples: float) -> float:
    """Samples, or sequences of the full length, that one arm learns from, of an epoch of `samples`."""
    if training.steps is None:
        return (training.epochs or 0) * samples
    return training.steps * (training.batch_size or (training.tokens_per_step or 0) / training.sequence_length)


def arms_of(training: TrainingConfig) -> int:
    """How many students are trained, baselines among them."""
    return len(training.seeds) * (2 if training.baseline else 1)
