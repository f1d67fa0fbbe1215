"""Images of the source, joined to their soft labels by key."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.data.document import ImageSample
from kdcore.data.sources import Source
from kdcore.errors import DataError
from kdcore.labels.soft_labels import SoftLabels
from kdcore.planning import plan_units
from kdcore.planning.plan import PlannedSample
from kdcore.training.batches import ImageBatch
from kdcore.training.packing import Layout

if TYPE_CHECKING:
    from kdcore.store.reader import LabelStore

_CACHE_BYTES = 1 << 30  # decoded images kept in memory; larger corpora are decoded again every epoch


class ImageSamples:
    """Images by number; identical images occur as often as in the data. Decoded once, as far as memory allows."""

    def __init__(self, source: Source, samples: list[PlannedSample], labels: "StoreJoin | None") -> None:
        self._source, self._labels = source, labels
        self._samples = samples
        self._index = np.repeat(np.arange(len(samples)), [times for _, _, times in samples])
        self.lengths = np.ones(len(self._index), dtype=np.int64)
        self.notes: tuple[str, ...] = ()
        self.elsewhere = labels is not None and labels.elsewhere
        self._cache: dict[int, ImageSample] = {}
        self._room = _CACHE_BYTES
        self.num_classes = int(source.num_classes or 0)
        self.num_channels = int(source.num_channels or 0)

    def __len__(self) -> int:
        return len(self._index)

    def tokens(self, indices: np.ndarray) -> int:
        """Images among `indices`: all."""
        return len(indices)

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """The first 64 bits of the images' keys, uint64."""
        keys = (self._samples[int(number)][1] for number in self._index[indices])
        return np.array([int.from_bytes(key[:8], "little") for key in keys], dtype=np.uint64)

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> ImageBatch:
        """Images as a batch, whatever the layout; without indices one image and no target."""
        numbers = self._index[indices] if len(indices) else self._index[:1]
        images = [self._image(int(number)) for number in numbers]
        pixels = torch.from_numpy(np.stack([image.pixels for image in images]))
        images = images[: len(indices)]
        targets = torch.tensor([_target(image) for image in images], dtype=torch.int64)
        labels = None if self._labels is None else self._labels.of(numbers).index(slice(0, len(indices)))
        return ImageBatch(pixels, targets, labels)

    def bring(self, indices: np.ndarray) -> None:
        """Copies the shards of the images' labels to this machine, many at once."""
        if self._labels is not None:
            self._labels.bring(self._index[indices])

    def _image(self, number: int) -> ImageSample:
        if number in self._cache:
            return self._cache[number]
        image = self._source.read(self._samples[number][0])
        assert isinstance(image, ImageSample)
        if image.pixels.nbytes <= self._room:
            self._room -= image.pixels.nbytes
            self._cache[number] = image
        return image


class StoreJoin:
    """Soft labels of planned samples, found in a store by key; MissingLabels when one has none."""

    def __init__(self, store: "LabelStore", samples: list[PlannedSample]) -> None:
        self._store = store
        self._rows = store.rows_of(key for _, key, _ in samples)
        self.elsewhere = store.place.remote

    def bring(self, numbers: np.ndarray) -> None:
        """Copies the shards that the labels of `numbers` are in, where they lie elsewhere."""
        self._store.bring(self._rows[numbers])

    def of(self, numbers: np.ndarray) -> SoftLabels:
        """One label for each of the planned samples `numbers`."""
        starts = np.zeros(len(numbers), dtype=np.int64)
        return self._store.labels_of(self._rows[numbers], starts, starts + 1)


def image_samples(recipe: Recipe, source: Source, uses_labels: bool) -> ImageSamples:
    """The train split, with the labels of the recipe's store where the arm uses them."""
    _, parts = plan_units(source, "train", recipe.labels.unit_bytes, recipe.data.on_unreadable)
    samples = [sample for part in parts for sample in part]
    join = None
    if uses_labels:
        from kdcore.store.reader import open_store

        join = StoreJoin(open_store(recipe.store_path), samples)
    return ImageSamples(source, samples, join)


def _target(image: ImageSample) -> int:
    if image.target is None:
        raise DataError(f"training needs a class for every image, '{image.name}' has none; see data.label_column")
    return image.target
