"""What a run on texts would cost."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from cluster.estimate.parts import arms_of, cpu_share, learnt_codec, seconds_of, sketch_of, trained_samples
from cluster.estimate.run import Estimate
from cluster.labelling.disk_room import store_bytes
from cluster.labelling.replica.answers import TextAnswers, TextRows
from cluster.labelling.replica.loading import load_answers, unsplit
from kdcore.config.models import CausalLMConfig
from kdcore.config.recipe import Recipe
from kdcore.data.chunks import settle_long
from kdcore.data.document import TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.data.sources import Source, open_source, readable
from kdcore.data.tokenizer import valid_vocabulary
from kdcore.errors import DataError
from kdcore.models.causal_lm import build_causal_lm
from kdcore.planning import Sketch

__all__ = ["encoded_texts", "estimate_text", "refusal"]

_SAMPLES_READ = 8


def estimate_text(recipe: Recipe) -> Estimate:
    """See `estimate`."""
    source = open_source(recipe.data)
    answers = load_answers(unsplit(recipe), source)
    assert isinstance(answers, TextRows)
    tokenizer, config = answers.teacher.tokenizer, answers.config
    corpus = sketch_of(recipe)
    size, encoded = encoded_texts(recipe, source, corpus, answers.encoder)
    per_byte = sum(len(text.tokens) for text in encoded) / max(1, size)
    tokens = max(1, int(corpus.num_bytes * per_byte) - corpus.num_samples)
    share = sum(len(text.positions) for text in encoded) / max(1, sum(len(text.tokens) - 1 for text in encoded))
    labels = max(1, round(tokens * share))
    window = max((text.tokens for text in encoded), key=len)[: config.context]
    speed = _tokens_per_second(answers, window, recipe.cluster.replicas.max)
    read_twice = config.context / (config.context - config.overlap)
    per_label = learnt_codec(recipe, source, corpus, answers).bytes_per_label()
    return Estimate(
        samples=corpus.num_samples,
        labels=labels,
        store_bytes=int(store_bytes(per_label, corpus.num_samples, labels, tokens, valid_vocabulary(tokenizer))),
        label_seconds=tokens * read_twice / speed,
        train_seconds=_train_seconds(recipe, tokenizer, tokens),
        refused=refusal(recipe, encoded),
    )


def refusal(recipe: Recipe, encoded: Sequence[EncodedText]) -> str:
    """Why training would refuse such documents, "" where it would not."""
    training = recipe.training
    if training is None:
        return ""
    lengths = np.array([len(text.tokens) for text in encoded])
    try:
        settle_long(lengths, np.ones_like(lengths), training.sequence_length, training.long_documents)
    except DataError as error:
        return f"training, by {len(encoded)} of the documents: {error}"
    return ""


def encoded_texts(
    recipe: Recipe, source: Source, corpus: Sketch, encoder: TextEncoder
) -> tuple[int, list[EncodedText]]:
    """A few texts with a token to predict, and the bytes of those that were read for them. DataError without any."""
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


def _tokens_per_second(answers: TextRows[Any, Any], window: np.ndarray, replicas: int) -> float:
    """Of all replicas together: those of a teacher here share the machine, those of an endpoint its server."""
    if isinstance(answers, TextAnswers):
        rows = max(1, min(8, answers.config.batch_tokens // len(window)))
        seconds = seconds_of(lambda: answers.teacher.window_logits([window] * rows))
        return rows * len(window) / seconds * cpu_share(replicas)
    requests = answers.config.concurrency
    with ThreadPoolExecutor(requests) as threads:
        seconds = seconds_of(lambda: list(threads.map(answers.teacher.entries, [window] * requests)))
    return requests * len(window) / seconds


def _train_seconds(recipe: Recipe, tokenizer: Any, tokens: int) -> float:
    """Of all arms: a forward and a backward pass of one sequence, scaled."""
    training, student = recipe.training, recipe.student
    if training is None or not isinstance(student, CausalLMConfig):
        return 0.0
    model = build_causal_lm(student, tokenizer)
    ids = torch.zeros(4, training.sequence_length, dtype=torch.int64)
    per_sequence = seconds_of(lambda: model(input_ids=ids, labels=ids).loss.backward()) / len(ids)
    sequences = trained_samples(training, tokens / training.sequence_length)
    return sequences * per_sequence * arms_of(training) / cpu_share(recipe.cluster.workers)
