"""scikit-learn's digits: 1,797 images of 8 x 8 pixels, ten classes, no download."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from kdcore.config.data import DigitsData, Kind
from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, ImageSample, SampleRef
from kdcore.errors import missing_extra

_SIDE = 8
_BRIGHTEST = 16.0


class DigitsSource(BaseSource):
    """Pixels float32 [1, 8, 8] in -1..1; where views are made of them, uint8 [8, 8, 1]."""

    kind: Kind = "image"

    def __init__(self, config: DigitsData) -> None:
        super().__init__(config.heldout_fraction, config.max_samples, "scikit-learn's digits")
        self._is_viewed = config.views is not None

    @property
    def num_classes(self) -> int:
        """Ten."""
        return 10

    @property
    def num_channels(self) -> int:
        """One."""
        return 1

    def read(self, ref: SampleRef) -> ImageSample:
        """One digit."""
        pixels, targets = self._digits
        return ImageSample(ref.name, pixels[ref.index].copy(), int(targets[ref.index]))

    def _find(self) -> Iterator[Extent]:
        rows = len(self._digits[0])
        yield Extent("digits", "sklearn.datasets", 0, rows, rows * _SIDE * _SIDE)

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        for row in range(extent.start, extent.stop):
            yield SampleRef(f"digit-{row:04d}", extent.source, row, _SIDE * _SIDE)

    @cached_property
    def _digits(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise missing_extra("scikit-learn", "vision", "data.type 'digits'") from error
        data, targets = load_digits(return_X_y=True)
        pixels, classes = np.asarray(data, dtype=np.float32), np.asarray(targets, dtype=np.int64)
        if self._is_viewed:
            return np.round(pixels * (255 / _BRIGHTEST)).astype(np.uint8).reshape(-1, _SIDE, _SIDE, 1), classes
        return pixels.reshape(-1, 1, _SIDE, _SIDE) * (2 / _BRIGHTEST) - 1, classes
