"""Held-out samples with classes, as many as the settings allow, whatever their order in the corpus."""

from collections.abc import Iterator

from kdcore.config import Recipe
from kdcore.data.document import ImageSample, Sample
from kdcore.data.sources import Source, readable
from kdcore.data.splits import probe_order
from kdcore.errors import DataError

__all__ = ["HeldOut"]

_CACHE_BYTES = 1 << 30  # of decoded images kept in memory; further ones are decoded again in every pass


class HeldOut:
    """At most `evaluation.max_images` that can be read, the same in every pass.

    Of more they are chosen by hash: the first of a folder, or of a sorted table, would all be of a few classes. Raises
    DataError where there is none, and UnreadableDocument where `data.on_unreadable` says so.
    """

    def __init__(self, recipe: Recipe, source: Source) -> None:
        self._source, self._data = source, recipe.data
        self._limit = recipe.evaluation.max_images
        refs = source.list("heldout")
        self._refs = refs if len(refs) <= self._limit else probe_order(refs)
        self._kept: dict[int, Sample] = {}
        self._room = _CACHE_BYTES

    @property
    def first(self) -> Sample:
        """Any one of them."""
        for sample in self:
            return sample
        raise DataError(f"evaluation needs held-out samples; of {len(self._refs)} none can be read")

    def __iter__(self) -> Iterator[Sample]:
        count = 0
        for number in range(len(self._refs)):
            for sample in self._readable(number):
                yield sample
                count += 1
            if count == self._limit:
                return

    def _readable(self, number: int) -> Iterator[Sample]:
        """The sample of this number, or nothing where it is skipped."""
        if number in self._kept:
            yield self._kept[number]
            return
        for _, sample in readable(self._source, self._refs[number : number + 1], self._data.on_unreadable):
            size = sample.pixels.nbytes if isinstance(sample, ImageSample) else 0
            if size <= self._room:
                self._room -= size
                self._kept[number] = sample
            yield sample
