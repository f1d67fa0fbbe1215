"""What all corpora share: the split by name, an explicit held-out set, the limit on samples."""

from abc import ABC, abstractmethod

from kdcore.data.document import ImageSample, Kind, Refs, SampleRef, Split, TextDocument
from kdcore.data.splits import limit_samples, split_by_name
from kdcore.errors import DataError


class BaseSource(ABC):
    """A corpus that finds all its samples, of which a share given by name, or an explicit list, is held out."""

    kind: Kind

    def __init__(self, heldout_fraction: float, max_samples: int | None, where: str) -> None:
        self._heldout_fraction = heldout_fraction
        self._max_samples = max_samples
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
    def read(self, ref: SampleRef) -> TextDocument | ImageSample:
        """One sample. Raises UnreadableDocument, naming it, when it cannot be read or decoded."""

    @abstractmethod
    def _find(self) -> Refs:
        """All samples, or those for training where `_find_heldout` gives the others."""

    def _find_heldout(self) -> Refs | None:
        """The held-out samples where they are given by hand; None: they are split off by name."""
        return None

    def list(self, split: Split) -> Refs:
        """The samples of one split, sorted. Raises DataError, naming path and pattern, when there are none."""
        explicit = self._find_heldout()
        if explicit is None:
            refs = split_by_name(self._find(), split, self._heldout_fraction)
        elif split == "heldout":
            refs = explicit
        else:  # a pattern such as *.jsonl may match the held-out files too
            kept_out = {ref.source for ref in explicit}
            refs = [ref for ref in self._find() if ref.source not in kept_out]
        if not refs:
            raise DataError(
                f"The {split} split must have at least one sample; it has none of {self._where} "
                f"(data.heldout_fraction {self._heldout_fraction}). Likely there are too few samples for the share "
                "held out, or the files are empty; set data.path, data.heldout or data.heldout_fraction."
            )
        return limit_samples(sorted(refs), self._max_samples)
