"""What images and texts with classes share: they are found by number, and joined to their soft labels by key."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from kdcore.config import Recipe
from kdcore.config.data import on_conflict_of
from kdcore.data.document import ClassifiedText, ImageSample
from kdcore.data.sources import Source
from kdcore.errors import ConfigError, DataError
from kdcore.labels.mixing import hard_labels, side_by_side
from kdcore.labels.moments import LayerMoments
from kdcore.labels.soft_labels import SoftLabels
from kdcore.planning import plan_units
from kdcore.planning.plan import Plan, PlannedSample
from kdcore.store.mix.mix import LabelMix
from kdcore.training.image_views import StoredViews

if TYPE_CHECKING:
    from kdcore.training.stored_labels import Labelled

__all__ = ["ClassifiedSamples", "StoreJoin", "classified_units"]


def classified_units(recipe: Recipe, source: Source) -> tuple[Plan, tuple[tuple[PlannedSample, ...], ...]]:
    """The plan of the train split, and the samples of each unit."""
    settings, unit_bytes = recipe.data, recipe.labels.unit_bytes
    return plan_units(source, "train", unit_bytes, settings.on_unreadable, on_conflict=on_conflict_of(settings))


class StoreJoin:
    """Soft labels of planned samples, found in a store by key; MissingLabels when one has none.

    Of a mix whose `missing` is `hard` the hard label stands in for it.
    """

    def __init__(self, store: "Labelled", samples: Sequence[PlannedSample]) -> None:
        self._store = store
        self._rows = store.rows_of(key for _, key, _ in samples)
        self.elsewhere = store.elsewhere
        self.views = StoredViews(store, self._rows)
        self.codec = None if isinstance(store, LabelMix) else store.codec
        self.codecs, self.moments = store.codecs, store.moments
        self.notes, self.changes = store.notes, store.changes
        self._viewed = store.view_spec is not None
        self._known = self._rows >= 0
        if not self._known.all():
            self._stand_in()

    def _stand_in(self) -> None:
        """ConfigError for views, whose parameters are in stores alone."""
        count = f"{int((~self._known).sum()):,} of {len(self._known):,}"
        if self._viewed:
            raise ConfigError(
                f"{count} samples are in no store of labels.mix, and so nobody knows their views (data.views): set "
                "labels.mix.missing to rest, or label them"
            )
        note = f"{count} samples are in no store of the mix: they learn from their hard label (labels.mix.missing)"
        self.notes = (*self.notes, note)

    def bring(self, numbers: np.ndarray) -> None:
        """Copies the shards that the labels of `numbers` are in, where they lie elsewhere."""
        self._store.bring(self._rows[numbers[self._known[numbers]]])

    def of(self, numbers: np.ndarray, views: np.ndarray, targets: Callable[[np.ndarray], Tensor]) -> SoftLabels:
        """The label of view `views[i]` of each of the planned samples `numbers[i]`, whose classes `targets` tells.

        Of a store of whole samples there is one label; a view is then an epoch, which a mix may ask for.
        """
        known = self._known[numbers]
        if not known.all():
            return self._with_hard(numbers, views, targets, known)
        labels = self.views.stored(views) if self._viewed else np.zeros_like(views)
        return self._store.labels_of(self._rows[numbers], labels, labels + 1, views)

    def _with_hard(
        self, numbers: np.ndarray, views: np.ndarray, targets: Callable[[np.ndarray], Tensor], known: np.ndarray
    ) -> SoftLabels:
        mix = self._store
        assert isinstance(mix, LabelMix), "a store that lacks a sample says so"
        hard = hard_labels(targets(numbers[~known]), mix.num_classes, mix.form)
        if not known.any():
            return hard
        order = torch.from_numpy(np.argsort(np.concatenate([np.flatnonzero(known), np.flatnonzero(~known)])))
        return side_by_side([self.of(numbers[known], views[known], targets), hard], mix.top, order)


class ClassifiedSamples(ABC):
    """Samples of a class each, by number; identical ones occur as often as in the data.

    `joined`: the store whose shards they need, of labels or of views alone.
    """

    word: ClassVar[str]
    """What a sample is called."""

    label_setting: ClassVar[str]
    """Where a recipe says which class it has."""

    def __init__(
        self,
        source: Source,
        samples: Sequence[PlannedSample],
        labels: StoreJoin | None,
        joined: StoreJoin | None,
        views: int | None = 1,
    ) -> None:
        self._samples, self._labels, self._joined = samples, labels, joined
        self._index = np.repeat(np.arange(len(samples)), [times for _, _, times in samples])
        self.lengths, self.views = np.ones(len(self._index), dtype=np.int64), views
        self.notes: tuple[str, ...] = () if joined is None else joined.notes
        self.elsewhere = joined is not None and joined.elsewhere
        self.num_classes = int(source.num_classes or 0)
        self.has_labels = labels is not None
        self.codec = None if labels is None else labels.codec
        self.codecs = () if labels is None else labels.codecs
        self.moments: tuple[LayerMoments, ...] = () if labels is None else labels.moments

    def __len__(self) -> int:
        return len(self._index)

    def tokens(self, indices: np.ndarray) -> int:
        """Samples among `indices`: all."""
        return len(indices)

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """The first 64 bits of the samples' keys, uint64."""
        keys = (self._samples[int(number)][1] for number in self._places(indices)[0])
        return np.array([int.from_bytes(key[:8], "little") for key in keys], dtype=np.uint64)

    def bring(self, indices: np.ndarray) -> None:
        """Copies the shards that the samples' labels, or views, are in to this machine, many at once."""
        if self._joined is not None:
            self._joined.bring(self._places(indices)[0])

    @abstractmethod
    def _sample(self, number: int) -> ImageSample | ClassifiedText:
        """A distinct sample, read."""

    @abstractmethod
    def _expect(self, numbers: np.ndarray) -> None:
        """These distinct samples are read next."""

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which distinct sample each of `indices` is, and which view of it."""
        views, places = np.divmod(np.asarray(indices, dtype=np.int64), len(self._index))
        return self._index[places], views

    def _shown(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, SoftLabels | None]:
        """Samples, views and labels of a batch: where `indices` are none, of the first, in place of none."""
        numbers, views = self._places(indices if len(indices) else np.zeros(1, dtype=np.int64))
        self._expect(numbers)
        return numbers, views, None if self._labels is None else self._labels.of(numbers, views, self._targets)

    def _numbers(self, indices: np.ndarray) -> Tensor:
        """Numbers in the training set, int64, the same for all views of a sample."""
        return torch.from_numpy(np.asarray(indices, dtype=np.int64) % len(self._index))

    def _targets(self, numbers: np.ndarray) -> Tensor:
        return torch.tensor([self._target(number) for number in numbers.tolist()], dtype=torch.int64)

    def _target(self, number: int) -> int:
        sample = self._sample(number)
        if sample.target is None:
            raise DataError(
                f"training needs a class for every {self.word}, '{sample.name}' has none; see {self.label_setting}"
            )
        return sample.target
