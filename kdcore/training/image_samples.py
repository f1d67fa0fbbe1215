"""Images of the source, joined to their soft labels by key."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.data.document import ImageSample
from kdcore.data.sources import Source
from kdcore.data.viewed import view_spec
from kdcore.errors import DataError
from kdcore.identity import mix_next
from kdcore.labels.soft_labels import SoftLabels
from kdcore.labels.views.spec import ViewSpec
from kdcore.planning import plan_units
from kdcore.planning.plan import PlannedSample
from kdcore.training.batches import ImageBatch
from kdcore.training.image_views import DrawnViews, Partners, StoredViews, ViewedPixels, check_views
from kdcore.training.packing import Layout

if TYPE_CHECKING:
    from kdcore.training.stored_labels import Labelled

_CACHE_BYTES = 1 << 30  # decoded images kept in memory; larger corpora are decoded again every epoch


class ImageSamples:
    """Images by number; identical images occur as often as in the data. Decoded once, as far as memory allows.

    With a `spec`, of each its views: those that the store of `labels` (or `stored`) knows, or others without end.
    """

    def __init__(
        self,
        source: Source,
        units: Sequence[Sequence[PlannedSample]],
        labels: "StoreJoin | None",
        spec: ViewSpec | None = None,
        stored: "StoreJoin | None" = None,
        views: int | None = 1,
    ) -> None:
        self._source, self._labels = source, labels
        self._samples = [sample for unit in units for sample in unit]
        self._index = np.repeat(np.arange(len(self._samples)), [times for _, _, times in self._samples])
        self.lengths, self.views = np.ones(len(self._index), dtype=np.int64), views
        self.notes: tuple[str, ...] = ()
        self._joined = stored if labels is None else labels
        self.elsewhere = self._joined is not None and self._joined.elsewhere
        self._cache: dict[int, ImageSample] = {}
        self._room = _CACHE_BYTES
        self.num_classes = int(source.num_classes or 0)
        self.num_channels = int(source.num_channels or 0)
        self.codec = None if labels is None else labels.codec
        self._viewed = None if spec is None else self._view(spec, units, stored)

    def _view(
        self, spec: ViewSpec, units: Sequence[Sequence[PlannedSample]], stored: "StoreJoin | None"
    ) -> ViewedPixels:
        keys = [key for _, key, _ in self._samples]
        unit_of = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        source = DrawnViews(spec, keys, unit_of) if stored is None else stored.views
        pixels, target = (lambda number: self._image(number).pixels), (lambda number: _target(self._image(number)))
        return ViewedPixels(spec, source, Partners(keys, unit_of), pixels, target)

    def __len__(self) -> int:
        return len(self._index)

    def tokens(self, indices: np.ndarray) -> int:
        """Images among `indices`: all."""
        return len(indices)

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """The first 64 bits of the images' keys, uint64; of views, a hash of them and the view."""
        numbers, views = self._places(indices)
        keys = (self._samples[int(number)][1] for number in numbers)
        found = np.array([int.from_bytes(key[:8], "little") for key in keys], dtype=np.uint64)
        return found if self._viewed is None else mix_next(found ^ views.astype(np.uint64))

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> ImageBatch:
        """Images as a batch, whatever the layout; without indices one image and no target."""
        numbers, views = self._places(indices if len(indices) else np.zeros(1, dtype=np.int64))
        count = slice(0, len(indices))
        targets = torch.tensor([_target(self._image(int(number))) for number in numbers[count]], dtype=torch.int64)
        labels = None if self._labels is None else self._labels.of(numbers, views)
        places = torch.from_numpy(np.asarray(indices, dtype=np.int64) % len(self._index))
        if self._viewed is None:
            pixels = torch.from_numpy(np.stack([self._image(int(number)).pixels for number in numbers]))
            return ImageBatch(pixels, targets, labels, indices=places)
        pixels, others, shares = self._viewed.of(numbers, views)
        if others is None or shares is None:
            return ImageBatch(pixels, targets, labels, indices=places)
        return ImageBatch(pixels, targets, labels, others[count], shares[count], places)

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which distinct image each of `indices` is of, and which view of it."""
        views, places = np.divmod(np.asarray(indices, dtype=np.int64), len(self._index))
        return self._index[places], views

    def bring(self, indices: np.ndarray) -> None:
        """Copies the shards of the images' labels, or views, to this machine, many at once."""
        if self._joined is not None:
            self._joined.bring(self._places(indices)[0])

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

    def __init__(self, store: "Labelled", samples: list[PlannedSample]) -> None:
        self._store = store
        self._rows = store.rows_of(key for _, key, _ in samples)
        self.elsewhere = store.elsewhere
        self.views = StoredViews(store, self._rows)
        self.codec, self.notes, self.changes = store.codec, store.notes, store.changes
        self._viewed = store.view_spec is not None

    def bring(self, numbers: np.ndarray) -> None:
        """Copies the shards that the labels of `numbers` are in, where they lie elsewhere."""
        self._store.bring(self._rows[numbers])

    def of(self, numbers: np.ndarray, views: np.ndarray) -> SoftLabels:
        """The label of view `views[i]` of each of the planned samples `numbers[i]`.

        Of a store of whole samples there is one label; a view is then an epoch, which a mix may ask for.
        """
        labels = views if self._viewed else np.zeros_like(views)
        return self._store.labels_of(self._rows[numbers], labels, labels + 1, views)


def image_samples(recipe: Recipe, source: Source, uses_labels: bool, endless: bool = False) -> ImageSamples:
    """The train split, with the labels of the recipe's store where the arm uses them.

    With data.views, the views that are labelled, for an arm without labels as well; or, `endless`, another one in every
    epoch. IdentityMismatch where the store's labels are of other views.
    """
    from kdcore.store import is_finished
    from kdcore.training.stored_labels import open_labels

    _, units = plan_units(source, "train", recipe.labels.unit_bytes, recipe.data.on_unreadable)
    spec, join = view_spec(recipe.data), None
    if uses_labels or (spec is not None and not endless and all(map(is_finished, recipe.store_paths))):
        store = open_labels(recipe)
        check_views(store, spec)
        join = StoreJoin(store, [sample for unit in units for sample in unit])
    views = 1 if spec is None else None if endless else spec.per_image
    views = None if spec is None and join is not None and join.changes else views
    samples = ImageSamples(source, units, join if uses_labels else None, spec, join, views)
    samples.notes += join.notes if join is not None else ()
    return samples


def _target(image: ImageSample) -> int:
    if image.target is None:
        raise DataError(f"training needs a class for every image, '{image.name}' has none; see data.label_column")
    return image.target
