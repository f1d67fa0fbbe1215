"""Made images to learn from, perhaps with a few real ones, beside real ones to be measured on, as one corpus."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import chain

from kdcore.config.data import Kind
from kdcore.data.document import Extent, ImageSample, Refs, Sample, SampleRef, Split
from kdcore.data.sources import Source
from kdcore.data.splits import probe_order
from kdcore.errors import DataError

__all__ = ["SynthesisedSource"]

_MADE = "made:"


class SynthesisedSource:
    """The train split is all of `made`, with so many of each class of `real`'s; the held-out split that of `real`.

    The classes are the real ones', of which some may not have been made.
    """

    kind: Kind = "image"

    def __init__(self, made: Source, real: Source, real_per_class: int = 0) -> None:
        self._made, self._real, self._per_class = made, real, real_per_class
        self.max_samples = made.max_samples

    @property
    def num_classes(self) -> int | None:
        """Of the real images."""
        return self._real.num_classes

    @property
    def num_channels(self) -> int | None:
        """Of the real images."""
        return self._real.num_channels

    def extents(self, split: Split) -> Iterator[Extent]:
        """Of the made images for training, of the real ones to measure on."""
        if split == "heldout":
            return self._real.extents("heldout")
        made = (replace(extent, source=_MADE + extent.source) for extent in self._made.extents("train"))
        return chain(made, self._real.extents("train") if self._per_class else ())

    def stamp(self, extent: Extent) -> str:
        """As the corpus that it is of says."""
        source, part = self._corpus(extent)
        return source.stamp(part)

    def refs(self, extent: Extent, split: Split) -> Iterator[SampleRef]:
        """The samples of an extent, in order."""
        source, part = self._corpus(extent)
        if source is self._real:
            refs = source.refs(part, split)
            return refs if split == "heldout" else (ref for ref in refs if ref in self._few)
        return (replace(ref, source=_MADE + ref.source) for ref in source.refs(part, split))

    def list(self, split: Split) -> Refs:
        """The samples of one split, sorted, in memory."""
        if split == "heldout":
            return self._real.list("heldout")
        made = [replace(ref, source=_MADE + ref.source) for ref in self._made.list("train")]
        return sorted([*made, *self._few])

    def no_samples(self, split: Split) -> DataError:
        """As the corpus of the split says."""
        return (self._real if split == "heldout" else self._made).no_samples(split)

    def read(self, ref: SampleRef) -> Sample:
        """One sample."""
        if ref.source.startswith(_MADE):
            return self._made.read(replace(ref, source=ref.source.removeprefix(_MADE)))
        return self._real.read(ref)

    @cached_property
    def _few(self) -> set[SampleRef]:
        """The real images that are learnt from: as a probe takes them, the first of each class."""
        wanted, found = self._per_class, set[SampleRef]()
        if not wanted:
            return found
        counts: dict[int, int] = {}
        for ref in probe_order(self._real.list("train")):
            if len(counts) == self.num_classes and min(counts.values()) == wanted:
                break
            image = self._real.read(ref)
            assert isinstance(image, ImageSample)
            if image.target is not None and counts.get(image.target, 0) < wanted:
                counts[image.target] = counts.get(image.target, 0) + 1
                found.add(ref)
        return found

    def _corpus(self, extent: Extent) -> tuple[Source, Extent]:
        if extent.source.startswith(_MADE):
            return self._made, replace(extent, source=extent.source.removeprefix(_MADE))
        return self._real, extent
