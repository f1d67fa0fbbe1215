"""`--dry-run`: the resolved recipe, the bytes of its store and the time it would take; nothing is written."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from cluster.labelling.disk_room import free_bytes, store_bytes
from jobs.common import say
from kdcore.config.data import kind_of
from kdcore.config.load import dump_recipe
from kdcore.config.models import CausalLMConfig, ImageClassifierConfig, TeacherImageConfig, TextClassifierConfig
from kdcore.config.recipe import Recipe
from kdcore.config.training import TrainingConfig
from kdcore.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from cluster.labelling.replica.answers import TextRows
    from cluster.labelling.replica.loading import Answers
    from kdcore.data.encoding import EncodedText, TextEncoder
    from kdcore.data.sources import Source
    from kdcore.labels import Codec
    from kdcore.planning import Sketch

__all__ = ["Estimate", "estimate", "show"]

_SAMPLES_READ = 8
_LABELS_PROBED = 2048
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Estimate:
    """What a run would cost: samples, labels, bytes of the store, seconds of labelling and of training.

    `refused`: why it would end before its first step, as far as the documents that were read show; else "".
    """

    samples: int
    labels: int
    store_bytes: int
    label_seconds: float
    train_seconds: float
    refused: str = ""


def show(recipe: Recipe, live: str | None = None) -> None:
    """Print the resolved recipe and its estimated cost; warn when the disk is too small.

    `live`: why the teacher runs while students are trained, instead of labelling.
    """
    say(dump_recipe(recipe))
    found = estimate(recipe, live is not None)
    say(f"samples        {found.samples:,}")
    for line in _losses(recipe, live):
        say(line)
    if live is None:
        say(f"labels         {found.labels:,}")
        say(f"label store    {found.store_bytes / 1e6:,.1f} MB in {recipe.store_path}")
        say(f"labelling      about {_minutes(found.label_seconds)} on {recipe.cluster.replicas.max} replica(s)")
    if recipe.training is not None:
        say(f"training       about {_minutes(found.train_seconds)} on {recipe.cluster.workers} worker(s), all arms")
    free = free_bytes(str(recipe.store_path))
    if free is not None:
        say(f"disk           {free / 1e9:,.1f} GB free" + (": NOT ENOUGH" if free < 1.1 * found.store_bytes else ""))
    if found.refused:
        say(f"REFUSED        {found.refused}")
    say("measured with a short probe on this machine; nothing was written")


def _losses(recipe: Recipe, live: str | None) -> list[str]:
    """The terms of `training.losses`, and where they hear of the teacher."""
    terms = recipe.training.losses if recipe.training is not None else ()
    if not terms:
        return []
    words = " + ".join(f"{term.weight:g} {getattr(term, 'type', '')}" for term in terms)
    where = "from the label store" if live is None else f"runs beside the student, no labels are made: {live}"
    return [f"losses         {words}", f"teacher        {where}"]


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def estimate(recipe: Recipe, live: bool = False) -> Estimate:
    """Read a few samples, run teacher and student for a moment, and scale up; `live`: the teacher runs in training."""
    import torch

    torch.set_num_threads(max(1, int(recipe.cluster.cpus_per_replica)))
    if kind_of(recipe.data) == "image":
        return _estimate_images(recipe, live)
    of_kind = {"text": _estimate_text, "classified_text": _estimate_classified}
    return of_kind[kind_of(recipe.data)](recipe)


def _seconds(work: Callable[[], object]) -> float:
    """Best of two timed runs after one for warming up."""
    work()
    times = []
    for _ in range(2):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _cpu_share(processes: int) -> float:
    """How many of `processes` really run at once on this machine."""
    return float(min(processes, os.cpu_count() or 1))


def _estimate_text(recipe: Recipe) -> Estimate:
    from cluster.labelling.replica.answers import TextRows
    from cluster.labelling.replica.loading import load_answers
    from kdcore.data.sources import open_source
    from kdcore.data.tokenizer import valid_vocabulary

    source = open_source(recipe.data)
    answers = load_answers(_unsplit(recipe), source)
    assert isinstance(answers, TextRows)
    tokenizer, config = answers.teacher.tokenizer, answers.config
    corpus = _sketch(recipe)
    size, encoded = _encoded(recipe, source, corpus, answers.encoder)
    tokens = max(
        1, int(corpus.num_bytes / max(1, size) * sum(len(text.tokens) for text in encoded)) - corpus.num_samples
    )
    share = sum(len(text.positions) for text in encoded) / max(1, sum(len(text.tokens) - 1 for text in encoded))
    labels = max(1, round(tokens * share))
    window = max((text.tokens for text in encoded), key=len)[: config.context]
    speed = _tokens_per_second(answers, window, recipe.cluster.replicas.max)
    read_twice = config.context / (config.context - config.overlap)
    codec = _learnt_codec(recipe, source, corpus, answers)
    vocabulary = valid_vocabulary(tokenizer)
    return Estimate(
        samples=corpus.num_samples,
        labels=labels,
        store_bytes=int(store_bytes(codec.bytes_per_label(), corpus.num_samples, labels, tokens, vocabulary)),
        label_seconds=tokens * read_twice / speed,
        train_seconds=_train_text(recipe, tokenizer, tokens),
        refused=_refused(recipe, encoded),
    )


def _refused(recipe: Recipe, encoded: "list[EncodedText]") -> str:
    import numpy as np

    from kdcore.data.chunks import settle_long

    training = recipe.training
    if training is None:
        return ""
    lengths = np.array([len(text.tokens) for text in encoded])
    try:
        settle_long(lengths, np.ones_like(lengths), training.sequence_length, training.long_documents)
    except DataError as error:
        return f"training, by {len(encoded)} of the documents: {error}"
    return ""


def _sketch(recipe: Recipe) -> "Sketch":
    from kdcore.planning import Corpus, sketch

    return sketch(replace(Corpus.of(recipe.data), block_bytes=_BLOCK_BYTES), _LABELS_PROBED)


def _encoded(
    recipe: Recipe, source: "Source", corpus: "Sketch", encoder: "TextEncoder"
) -> tuple[int, "list[EncodedText]"]:
    """A few texts with a token to predict, and the bytes of those that were read for them. DataError without any."""
    from kdcore.data.document import TextDocument
    from kdcore.data.sources import readable

    size, found = 0, []
    for ref, sample in readable(source, corpus.some, recipe.data.on_unreadable):
        assert isinstance(sample, TextDocument)
        text, size = encoder.encode(sample), size + ref.num_bytes
        found += [text] if len(text.tokens) > 1 else []
        if len(found) == _SAMPLES_READ:
            break
    if not found:
        raise DataError(
            f"at least one sample must be readable and have a token to predict, none of {len(corpus.some)} is: does "
            "data.path match the right files, and does data.chat_template, if any, take their messages?"
        )
    return size, found


def _unsplit(recipe: Recipe) -> Recipe:
    """The teacher whole, in this process."""
    if recipe.ranks == 1 or recipe.teacher is None:
        return recipe
    return recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={"tensor_parallel": 1})})


def _tokens_per_second(answers: "TextRows[Any, Any]", window: "np.ndarray", replicas: int) -> float:
    """Of all replicas together: those of a teacher here share the machine, those of an endpoint its server."""
    from cluster.labelling.replica.answers import TextAnswers

    if isinstance(answers, TextAnswers):
        rows = max(1, min(8, answers.config.batch_tokens // len(window)))
        seconds = _seconds(lambda: answers.teacher.window_logits([window] * rows))
        return rows * len(window) / seconds * _cpu_share(replicas)
    requests = answers.config.concurrency
    with ThreadPoolExecutor(requests) as threads:
        seconds = _seconds(lambda: list(threads.map(answers.teacher.entries, [window] * requests)))
    return requests * len(window) / seconds


def _learnt_codec(recipe: Recipe, source: "Source", corpus: "Sketch", answers: "Answers") -> "Codec":
    """What the labelling job would learn, from fewer labels."""
    from cluster.labelling.replica.endpoint_answers import EndpointAnswers
    from cluster.labelling.replica.replica import probe_batches
    from kdcore.labels.learn import learn_codec

    if isinstance(answers, EndpointAnswers):
        return answers.teacher.codec(answers.k)
    settings = recipe.labels.model_copy(update={"probe_labels": min(recipe.labels.probe_labels, _LABELS_PROBED)})
    batches = probe_batches(corpus.some, source, answers, recipe.model_copy(update={"labels": settings}))
    return learn_codec(recipe.codec, answers.teacher.num_classes, batches, answers.layers(source, corpus.some)).codec


def _train_text(recipe: Recipe, tokenizer: Any, tokens: int) -> float:
    """Seconds of all arms: a forward and a backward pass of one sequence, scaled."""
    training, student = recipe.training, recipe.student
    if training is None or not isinstance(student, CausalLMConfig):
        return 0.0
    import torch

    from kdcore.models.causal_lm import build_causal_lm

    model = build_causal_lm(student, tokenizer)
    ids = torch.zeros(4, training.sequence_length, dtype=torch.int64)
    per_sequence = _seconds(lambda: model(input_ids=ids, labels=ids).loss.backward()) / len(ids)
    sequences = _trained(training, tokens / training.sequence_length)
    return sequences * per_sequence * _arms(training) / _cpu_share(recipe.cluster.workers)


def _trained(training: TrainingConfig, samples: float) -> float:
    """Images, or sequences of the full length, that one arm learns from, of an epoch of `samples`."""
    if training.steps is None:
        return (training.epochs or 0) * samples
    return training.steps * (training.batch_size or (training.tokens_per_step or 0) / training.sequence_length)


def _arms(training: TrainingConfig) -> int:
    return len(training.seeds) * (2 if training.baseline else 1)


def _estimate_images(recipe: Recipe, live: bool) -> Estimate:
    import torch

    from kdcore.data.document import ImageSample
    from kdcore.data.sources import open_source, readable
    from kdcore.data.viewed import view_spec, without_views
    from kdcore.labels.learn import fixed_codec
    from kdcore.labels.views import bytes_per_view
    from kdcore.models.image import build_image_model

    plain = without_views(recipe.data)
    source, corpus, spec = open_source(plain), _sketch(recipe), view_spec(recipe.data)
    sample = next((sample for _, sample in readable(source, corpus.some, recipe.data.on_unreadable)), None)
    if not isinstance(sample, ImageSample):
        raise DataError(f"at least one image must be readable, none of {len(corpus.some)} is: set data.path")
    num = corpus.num_samples
    labels = num * (1 if spec is None else spec.per_image)
    classes, channels = source.num_classes or 0, sample.pixels.shape[0]
    pixels = torch.from_numpy(sample.pixels)[None].repeat(32, 1, 1, 1)

    def per_image(config: ImageClassifierConfig, training: bool) -> float:
        model = build_image_model(config, classes, channels)
        work = (lambda: model(pixels).logsumexp(1).sum().backward()) if training else (lambda: model(pixels))
        return _seconds(work) / len(pixels)

    label, train = 0.0, 0.0
    if isinstance(recipe.teacher, TeacherImageConfig):
        label = per_image(recipe.teacher, False) * labels / _cpu_share(recipe.cluster.replicas.max)
        if recipe.teacher.fit is not None:
            train += per_image(recipe.teacher, True) * _trained(recipe.teacher.fit, num)
    if recipe.training is not None and isinstance(recipe.student, ImageClassifierConfig):
        images = _trained(recipe.training, num) * _arms(recipe.training)
        train += per_image(recipe.student, True) * images
        if live and isinstance(recipe.teacher, TeacherImageConfig):  # the baseline goes without it
            train += per_image(recipe.teacher, False) * _trained(recipe.training, num) * len(recipe.training.seeds)
    if live:
        return Estimate(num, 0, 0, 0.0, train / _cpu_share(recipe.cluster.workers))
    codec = fixed_codec(recipe.codec, classes)
    per_label = codec.bytes_per_label() if codec is not None else _image_label_bytes(recipe, corpus, classes)
    per_label += 0 if spec is None else bytes_per_view(spec.policy)
    size = int(store_bytes(per_label, num, labels))
    return Estimate(num, labels, size, label, train / _cpu_share(recipe.cluster.workers))


def _estimate_classified(recipe: Recipe) -> Estimate:
    from cluster.labelling.replica.classified_answers import ClassifiedTextAnswers
    from cluster.labelling.replica.loading import load_answers
    from kdcore.data.document import ClassifiedText
    from kdcore.data.sources import open_source, readable
    from kdcore.data.tokenizer import load_tokenizer
    from kdcore.models.text_classifier import build_text_classifier, encode_texts
    from kdcore.students.build import tokenizer_path

    source, corpus = open_source(recipe.data), _sketch(recipe)
    read = (sample for _, sample in readable(source, corpus.some, recipe.data.on_unreadable))
    texts = [(one.text, one.pair) for one in islice(read, _SAMPLES_READ) if isinstance(one, ClassifiedText)]
    if not texts:
        raise DataError(f"at least one text must be readable, none of {len(corpus.some)} is: set data.path")
    num, per_label, label, train = corpus.num_samples, 0.0, 0.0, 0.0
    if recipe.teacher is not None:
        answers = load_answers(recipe, source)
        assert isinstance(answers, ClassifiedTextAnswers)
        inputs = answers.teacher.encode(texts)
        label = _seconds(lambda: answers.teacher.logits(inputs)) / len(texts) * num
        per_label = _learnt_codec(recipe, source, corpus, answers).bytes_per_label()
    if recipe.training is not None and isinstance(recipe.student, TextClassifierConfig):
        teacher = recipe.teacher if isinstance(recipe.teacher, TextClassifierConfig) else None
        tokenizer = load_tokenizer(*tokenizer_path(recipe.student, teacher))
        model = build_text_classifier(recipe.student, tokenizer, source.num_classes or 0)
        batch = encode_texts(tokenizer, texts, recipe.student.max_length)
        per_text = _seconds(lambda: model(**batch).logits.logsumexp(1).sum().backward()) / len(texts)
        train = per_text * _trained(recipe.training, num) * _arms(recipe.training)
    size = int(store_bytes(per_label, num, num))
    shares = _cpu_share(recipe.cluster.replicas.max), _cpu_share(recipe.cluster.workers)
    return Estimate(num, num, size, label / shares[0], train / shares[1])


def _image_label_bytes(recipe: Recipe, corpus: "Sketch", classes: int) -> float:
    """Bytes of a label whose codec is learnt; a teacher that is still to be trained says nothing yet: dense labels."""
    from cluster.labelling.replica.loading import load_answers
    from kdcore.data.sources import open_source

    teacher = recipe.teacher
    if isinstance(teacher, TeacherImageConfig) and teacher.fit is not None:
        return 2.0 * classes
    source = open_source(recipe.data)
    return _learnt_codec(recipe, source, corpus, load_answers(recipe, source)).bytes_per_label()
