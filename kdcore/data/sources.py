"""Corpora behind one interface: list the samples of a split, read one of them."""

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from kdcore.config.data import (
    ClassifiedTextData,
    DataConfig,
    DigitsData,
    HfDatasetData,
    ImageFolderData,
    ImageParquetData,
    Kind,
    PythonStdlibData,
    StdlibPassagesData,
    SynthesisedImagesData,
    TextData,
)
from kdcore.data.document import Extent, Refs, Sample, SampleRef, Split
from kdcore.errors import DataError, UnreadableDocument


class Source(Protocol):
    """A corpus, cut into extents whose samples any process lists and reads alone; reading in order is fast.

    All is a function of the corpus: the same extents and references on every machine.
    """

    max_samples: int | None

    @property
    def kind(self) -> Kind:
        """What `read` returns: "text" documents, "image" samples, or "classified_text"."""
        ...

    @property
    def num_classes(self) -> int | None:
        """Classes of an image corpus (both splits counted); None for text."""
        ...

    @property
    def num_channels(self) -> int | None:
        """Channels of the images; None for text."""
        ...

    def extents(self, split: Split) -> Iterator[Extent]:
        """The slices in which a split lies, in order. Raises DataError, naming the pattern that matches no file."""
        ...

    def stamp(self, extent: Extent) -> str:
        """What changes when the samples of an extent may have: a plan of it holds as long as this is the same."""
        ...

    def refs(self, extent: Extent, split: Split) -> Iterator[SampleRef]:
        """The samples of one split in an extent, in order; `max_samples` is not applied."""
        ...

    def list(self, split: Split) -> Refs:
        """The samples of one split, sorted, in memory. Raises DataError, naming path and pattern, without any."""
        ...

    def no_samples(self, split: Split) -> DataError:
        """The error for a split without a sample."""
        ...

    def read(self, ref: SampleRef) -> Sample:
        """One sample. Raises UnreadableDocument, naming it, when it cannot be read or decoded."""
        ...


def readable(
    source: Source, refs: Iterable[SampleRef], on_unreadable: Literal["error", "skip"]
) -> Iterator[tuple[SampleRef, Sample]]:
    """The samples that can be read. Raises UnreadableDocument for another, unless those are skipped."""
    for ref in refs:
        try:
            sample = source.read(ref)
        except UnreadableDocument:
            if on_unreadable == "error":
                raise
            continue
        yield ref, sample


def open_source(config: DataConfig) -> Source:
    """The corpus that a recipe's `data` section describes; opens no file yet."""
    # Imported here: a text recipe pays for no image code, and the other way round.
    if isinstance(config, TextData):
        from kdcore.data.source_text import TextSource

        return TextSource(config)
    if isinstance(config, PythonStdlibData):
        from kdcore.data.source_stdlib import StdlibSource

        return StdlibSource(config)
    if isinstance(config, DigitsData):
        from kdcore.data.source_digits import DigitsSource

        return DigitsSource(config)
    if isinstance(config, SynthesisedImagesData):
        from kdcore.data.synthesised.source import SynthesisedSource

        return SynthesisedSource(open_source(config.as_files()), open_source(config.real), config.real_per_class)
    if isinstance(config, ImageFolderData):  # before its base class, ImageParquetData
        from kdcore.data.source_folder import ImageFolderSource

        return ImageFolderSource(config)
    if isinstance(config, ClassifiedTextData):
        from kdcore.data.source_classified import ClassifiedTextSource

        return ClassifiedTextSource(config)
    if isinstance(config, StdlibPassagesData):
        from kdcore.data.source_passages import StdlibPassagesSource

        return StdlibPassagesSource(config)
    if isinstance(config, HfDatasetData):
        from kdcore.data.source_hf import HfDatasetSource

        return HfDatasetSource(config)
    assert isinstance(config, ImageParquetData)
    from kdcore.data.source_parquet import ImageParquetSource

    return ImageParquetSource(config)
