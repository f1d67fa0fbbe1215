"""What all corpora share: the split by name, an explicit held-out set, the limit on samples."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

from kdcore.config.data import Kind
from kdcore.data.document import Extent, Refs, Sample, SampleRef, Split
from kdcore.data.inputs import inputs_of
from kdcore.data.splits import is_heldout, limit_samples
from kdcore.errors import DataError


class BaseSource(ABC):
    """A corpus whose files are found first and read in slices; a share given by name, or a list, is held out."""

    kind: Kind

    def __init__(self, heldout_fraction: float, max_samples: int | None, where: str) -> None:
        self._heldout_fraction = heldout_fraction
        self.max_samples = max_samples
        self._where = where

    @property
    def num_classes(self) -> int | None:
        """Classes of an image corpus; None for text."""
        return None

    @property
    def num_channels(self) -> int | None:
        """Channels of the images; None for text."""
        return None

    @abstractmethod
    def read(self, ref: SampleRef) -> Sample:
        """One sample. Raises UnreadableDocument, naming it, when it cannot be read or decoded."""

    @abstractmethod
    def _find(self) -> Iterator[Extent]:
        """All of the corpus, sorted by name, or what is for training where `_find_heldout` gives the rest."""

    def _find_heldout(self) -> Iterator[Extent] | None:
        """What is held out where that is given by hand; None: it is split off by name."""
        return None

    @abstractmethod
    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        """The samples of an extent, in order."""

    def extents(self, split: Split) -> Iterator[Extent]:
        """The slices in which a split lies, in the order of their names; opens no more than it needs to cut them."""
        heldout = self._find_heldout()
        if heldout is None:
            yield from self._find()
        elif split == "heldout":
            yield from (replace(extent, heldout=True) for extent in heldout)
        else:  # a pattern such as *.jsonl may match the held-out files too
            kept_out = {_canonical(extent) for extent in heldout}
            yield from (replace(extent, heldout=False) for extent in self._find() if _canonical(extent) not in kept_out)

    def stamp(self, extent: Extent) -> str:
        """What changes when the file of an extent does: "" without a file."""
        return extent.version or inputs_of(extent.source).version(extent.source)

    def refs(self, extent: Extent, split: Split) -> Iterator[SampleRef]:
        """The samples of one split in an extent, in order."""
        wanted = split == "heldout"
        for ref in self._samples(extent):
            held = is_heldout(ref.name, self._heldout_fraction) if extent.heldout is None else extent.heldout
            if held == wanted:
                yield ref

    def list(self, split: Split) -> Refs:
        """The samples of one split, sorted, in memory. Raises DataError, naming path and pattern, without any."""
        refs = [ref for extent in self.extents(split) for ref in self.refs(extent, split)]
        if not refs:
            raise self.no_samples(split)
        return limit_samples(sorted(refs), self.max_samples)

    def no_samples(self, split: Split) -> DataError:
        """The error for a split without a sample."""
        return DataError(
            f"The {split} split must have at least one sample; it has none of {self._where} "
            f"(data.heldout_fraction {self._heldout_fraction}). Likely there are too few samples for the share "
            "held out, or the files are empty; set data.path, data.heldout or data.heldout_fraction."
        )


def _canonical(extent: Extent) -> str:
    return inputs_of(extent.source).canonical(extent.source)
