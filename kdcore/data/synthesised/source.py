"""Made samples to learn from beside real ones to be measured on, as one corpus."""

from collections.abc import Iterator
from dataclasses import replace

from kdcore.config.data import Kind
from kdcore.data.document import Extent, Refs, Sample, SampleRef, Split
from kdcore.data.sources import Source
from kdcore.errors import DataError

__all__ = ["SynthesisedSource"]

_MADE = "made:"


class SynthesisedSource:
    """The train split is all of `made`, the held-out split that of `real`; the classes are the real ones'."""

    kind: Kind = "image"

    def __init__(self, made: Source, real: Source) -> None:
        self._made, self._real = made, real
        self.max_samples = made.max_samples

    @property
    def num_classes(self) -> int | None:
        """Of the real images: some may be made of no class."""
        return self._real.num_classes

    @property
    def num_channels(self) -> int | None:
        """Of the real images."""
        return self._real.num_channels

    def extents(self, split: Split) -> Iterator[Extent]:
        """Of the made images for training, of the real ones to measure on."""
        if split == "heldout":
            return self._real.extents("heldout")
        return (replace(extent, source=_MADE + extent.source) for extent in self._made.extents("train"))

    def stamp(self, extent: Extent) -> str:
        """As the corpus that it is of says."""
        source, part = self._corpus(extent)
        return source.stamp(part)

    def refs(self, extent: Extent, split: Split) -> Iterator[SampleRef]:
        """The samples of an extent, in order."""
        source, part = self._corpus(extent)
        if source is self._real:
            return source.refs(part, split)
        return (replace(ref, source=_MADE + ref.source) for ref in source.refs(part, split))

    def list(self, split: Split) -> Refs:
        """The samples of one split, sorted, in memory."""
        if split == "heldout":
            return self._real.list("heldout")
        return [replace(ref, source=_MADE + ref.source) for ref in self._made.list("train")]

    def no_samples(self, split: Split) -> DataError:
        """As the corpus of the split says."""
        return (self._real if split == "heldout" else self._made).no_samples(split)

    def read(self, ref: SampleRef) -> Sample:
        """One sample."""
        if ref.source.startswith(_MADE):
            return self._made.read(replace(ref, source=ref.source.removeprefix(_MADE)))
        return self._real.read(ref)

    def _corpus(self, extent: Extent) -> tuple[Source, Extent]:
        if extent.source.startswith(_MADE):
            return self._made, replace(extent, source=extent.source.removeprefix(_MADE))
        return self._real, extent
