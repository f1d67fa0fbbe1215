"""Texts with classes, as an encoder reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcore.config import Recipe
from kdcore.data.document import ClassifiedText
from kdcore.data.sources import Source
from kdcore.models.text_classifier import encode_texts, stacked
from kdcore.planning.plan import PlannedSample
from kdcore.training.batches import ClassifiedTextBatch
from kdcore.training.classified import ClassifiedSamples, StoreJoin, classified_units
from kdcore.training.packing import Layout

__all__ = ["ClassifiedTextSamples", "classified_text_samples"]


class ClassifiedTextSamples(ClassifiedSamples):
    """Texts, kept in memory. Tokens are the student's own."""

    word, label_setting = "text", "data.label_field"

    def __init__(
        self,
        source: Source,
        tokenizer: Any,
        max_length: int,
        samples: Sequence[PlannedSample],
        labels: StoreJoin | None,
    ) -> None:
        views = None if labels is not None and labels.changes else 1
        super().__init__(source, samples, labels, labels, views)
        self.tokenizer, self._max_length = tokenizer, max_length
        self._texts = [source.read(ref) for ref, _, _ in samples]

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> ClassifiedTextBatch:
        """Texts as a batch, whatever the layout; without indices one text and no target."""
        numbers, _, labels = self._shown(indices)
        texts = [self._sample(number) for number in numbers.tolist()]
        inputs = encode_texts(self.tokenizer, [(text.text, text.pair) for text in texts], self._max_length)
        targets = self._targets(numbers[: len(indices)])
        return ClassifiedTextBatch(stacked(inputs), targets, labels, self._numbers(indices))

    def _expect(self, numbers: np.ndarray) -> None:
        """They are in memory."""

    def _sample(self, number: int) -> ClassifiedText:
        text = self._texts[number]
        assert isinstance(text, ClassifiedText)
        return text


def classified_text_samples(
    recipe: Recipe, source: Source, tokenizer: Any, max_length: int, uses_labels: bool
) -> ClassifiedTextSamples:
    """The train split, with the labels of the recipe's store where the arm uses them."""
    plan, parts = classified_units(recipe, source)
    samples = [sample for part in parts for sample in part]
    join = None
    if uses_labels:
        from kdcore.training.stored_labels import open_labels

        join = StoreJoin(open_labels(recipe), samples)
    found = ClassifiedTextSamples(source, tokenizer, max_length, samples, join)
    found.notes = (*plan.input.notes, *found.notes)
    return found
