"""Images of the source, or views of them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.data.document import ImageSample
from kdcore.data.sources import Source
from kdcore.data.viewed import view_spec
from kdcore.identity import mix_next
from kdcore.labels.views.spec import ViewSpec
from kdcore.planning.plan import PlannedSample
from kdcore.training.batches import ImageBatch
from kdcore.training.classified import ClassifiedSamples, StoreJoin, classified_units
from kdcore.training.image_views import DrawnViews, Partners, ViewedPixels, check_views
from kdcore.training.packing import Layout

_CACHE_BYTES = 1 << 30  # decoded images kept in memory; larger corpora are decoded again every epoch


class ImageSamples(ClassifiedSamples):
    """Images, decoded once, as far as memory allows; else once for each batch, several at a time.

    With a `spec`, of each its views: those that the store of `labels` (or `stored`) knows, or others without end.
    """

    word, label_setting = "image", "data.label_column"

    def __init__(
        self,
        source: Source,
        units: Sequence[Sequence[PlannedSample]],
        labels: StoreJoin | None,
        spec: ViewSpec | None = None,
        stored: StoreJoin | None = None,
        views: int | None = 1,
    ) -> None:
        samples = [sample for unit in units for sample in unit]
        super().__init__(source, samples, labels, stored if labels is None else labels, views)
        self._source = source
        self._cache: dict[int, ImageSample] = {}
        self._held: dict[int, ImageSample] = {}  # for the batch in the making, what the cache has no room for
        self._room = _CACHE_BYTES
        self.num_channels = int(source.num_channels or 0)
        self._viewed = None if spec is None else self._view(spec, units, stored)

    def _view(self, spec: ViewSpec, units: Sequence[Sequence[PlannedSample]], stored: StoreJoin | None) -> ViewedPixels:
        keys = [key for _, key, _ in self._samples]
        unit_of = np.repeat(np.arange(len(units)), [len(unit) for unit in units])
        source = DrawnViews(spec, keys, unit_of) if stored is None else stored.views
        partners = Partners(keys, unit_of)
        return ViewedPixels(
            spec, source, partners, lambda number: self._sample(number).pixels, self._target, self._expect
        )

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """The first 64 bits of the images' keys, uint64; of views, a hash of them and the view."""
        found = super().digests(indices)
        return found if self._viewed is None else mix_next(found ^ self._places(indices)[1].astype(np.uint64))

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> ImageBatch:
        """Images as a batch, whatever the layout; without indices one image and no target."""
        try:
            return self._batch(indices)
        finally:
            self._held.clear()

    def _batch(self, indices: np.ndarray) -> ImageBatch:
        numbers, views, labels = self._shown(indices)
        count = slice(0, len(indices))
        targets, places = self._targets(numbers[count]), self._numbers(indices)
        if self._viewed is None:
            pixels = torch.from_numpy(np.stack([self._sample(number).pixels for number in numbers.tolist()]))
            return ImageBatch(pixels, targets, labels, indices=places)
        pixels, others, shares = self._viewed.of(numbers, views)
        if others is None or shares is None:
            return ImageBatch(pixels, targets, labels, indices=places)
        return ImageBatch(pixels, targets, labels, others[count], shares[count], places)

    def _expect(self, numbers: np.ndarray) -> None:
        missing = [number for number in dict.fromkeys(numbers.tolist()) if self._found(number) is None]
        threads = min(len(missing), torch.get_num_threads())
        if threads < 2:
            return
        with ThreadPoolExecutor(threads, thread_name_prefix="kdcore-decode") as pool:
            for number, image in zip(missing, pool.map(self._read, missing), strict=True):
                self._keep(number, image)

    def _sample(self, number: int) -> ImageSample:
        found = self._found(number)
        if found is None:
            found = self._read(number)
            self._keep(number, found)
        return found

    def _found(self, number: int) -> ImageSample | None:
        return self._cache.get(number) or self._held.get(number)

    def _read(self, number: int) -> ImageSample:
        image = self._source.read(self._samples[number][0])
        assert isinstance(image, ImageSample)
        return image

    def _keep(self, number: int, image: ImageSample) -> None:
        if image.pixels.nbytes > self._room:
            self._held[number] = image
            return
        self._room -= image.pixels.nbytes
        self._cache[number] = image


def image_samples(recipe: Recipe, source: Source, uses_labels: bool, endless: bool = False) -> ImageSamples:
    """The train split, with the labels of the recipe's store where the arm uses them.

    With data.views, the views that are labelled, for an arm without labels as well; or, `endless`, another one in every
    epoch. IdentityMismatch where the store's labels are of other views.
    """
    from kdcore.store import is_finished
    from kdcore.training.stored_labels import open_labels

    plan, units = classified_units(recipe, source)
    spec, join = view_spec(recipe.data), None
    if uses_labels or (spec is not None and not endless and all(map(is_finished, recipe.store_paths))):
        store = open_labels(recipe)
        check_views(store, spec)
        join = StoreJoin(store, [sample for unit in units for sample in unit])
    views = 1 if spec is None else None if endless else spec.per_image
    views = None if join is not None and join.changes else views
    found = ImageSamples(source, units, join if uses_labels else None, spec, join, views)
    found.notes = (*plan.input.notes, *found.notes)
    return found
