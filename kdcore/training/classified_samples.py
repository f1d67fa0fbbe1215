"""Texts with classes, joined to their soft labels by key."""

from typing import Any

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.data.document import ClassifiedText
from kdcore.data.sources import Source
from kdcore.errors import DataError
from kdcore.models.text_classifier import encode_texts, stacked
from kdcore.planning import plan_units
from kdcore.planning.plan import PlannedSample
from kdcore.training.batches import ClassifiedTextBatch
from kdcore.training.image_samples import StoreJoin
from kdcore.training.packing import Layout

__all__ = ["ClassifiedTextSamples", "classified_text_samples"]


class ClassifiedTextSamples:
    """Texts by number, kept in memory; identical ones occur as often as in the data. Tokens are the student's own."""

    def __init__(
        self,
        source: Source,
        tokenizer: Any,
        max_length: int,
        samples: list[PlannedSample],
        labels: StoreJoin | None,
    ) -> None:
        self.tokenizer, self._max_length, self._labels = tokenizer, max_length, labels
        self._samples = samples
        self._texts = [source.read(ref) for ref, _, _ in samples]
        self._index = np.repeat(np.arange(len(samples)), [times for _, _, times in samples])
        self.lengths = np.ones(len(self._index), dtype=np.int64)
        self.views: int | None = None if labels is not None and labels.changes else 1
        self.notes: tuple[str, ...] = () if labels is None else labels.notes
        self.elsewhere = labels is not None and labels.elsewhere
        self.num_classes = int(source.num_classes or 0)
        self.codec = None if labels is None else labels.codec

    def __len__(self) -> int:
        return len(self._index)

    def tokens(self, indices: np.ndarray) -> int:
        """Texts among `indices`: all."""
        return len(indices)

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """The first 64 bits of the texts' keys, uint64."""
        keys = (self._samples[int(number)][1] for number in self._index[np.asarray(indices) % len(self)])
        return np.array([int.from_bytes(key[:8], "little") for key in keys], dtype=np.uint64)

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> ClassifiedTextBatch:
        """Texts as a batch, whatever the layout; without indices one text and no target."""
        epochs, places = np.divmod(indices if len(indices) else np.zeros(1, dtype=np.int64), len(self))
        numbers = self._index[places]
        texts = [self._text(int(number)) for number in numbers]
        inputs = encode_texts(self.tokenizer, [(text.text, text.pair) for text in texts], self._max_length)
        targets = torch.tensor([_target(text) for text in texts[: len(indices)]], dtype=torch.int64)
        labels = None if self._labels is None else self._labels.of(numbers, epochs)
        return ClassifiedTextBatch(stacked(inputs), targets, labels, torch.from_numpy(places[: len(indices)]))

    def bring(self, indices: np.ndarray) -> None:
        """Copies the shards of the texts' labels to this machine, many at once."""
        if self._labels is not None:
            self._labels.bring(self._index[indices % len(self)])

    def _text(self, number: int) -> ClassifiedText:
        text = self._texts[number]
        assert isinstance(text, ClassifiedText)
        return text


def classified_text_samples(
    recipe: Recipe, source: Source, tokenizer: Any, max_length: int, uses_labels: bool
) -> ClassifiedTextSamples:
    """The train split, with the labels of the recipe's store where the arm uses them."""
    _, parts = plan_units(source, "train", recipe.labels.unit_bytes, recipe.data.on_unreadable)
    samples = [sample for part in parts for sample in part]
    join = None
    if uses_labels:
        from kdcore.training.stored_labels import open_labels

        join = StoreJoin(open_labels(recipe), samples)
    return ClassifiedTextSamples(source, tokenizer, max_length, samples, join)


def _target(text: ClassifiedText) -> int:
    if text.target is None:
        raise DataError(f"training needs a class for every text, '{text.name}' has none; see data.label_field")
    return text.target
