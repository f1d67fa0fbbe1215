"""Images of another data set, drawn at random: what the transfer method looks for classes in."""

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from kdcore.config.data import ImageParquetData
from kdcore.data.images import ImageDecoder
from kdcore.errors import DataError

__all__ = ["UnrelatedImages"]


class UnrelatedImages:
    """Encoded images of one Parquet file, in memory; decoded, resized and made grey or coloured as they are drawn.

    Raises DataError for a file that has no such column, or an image that cannot be decoded.
    """

    def __init__(self, path: str, column: str, shape: tuple[int, int, int]) -> None:
        try:
            rows = pq.read_table(path, columns=[column]).column(column).to_pylist()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"synthesis.path must be a Parquet file with a column '{column}': {error}") from error
        if not rows:
            raise DataError(f"synthesis.path must hold images, '{path}' has no row")
        self._path, self._encoded = path, [row["bytes"] if isinstance(row, dict) else row for row in rows]
        channels, size, _ = shape
        form = {"size": size, "channels": channels, "mean": (0.0,) * channels, "std": (1.0,) * channels}
        self._decoder = ImageDecoder(ImageParquetData.model_validate({"path": path, **form}))

    def __call__(self, count: int) -> Tensor:
        """Pixels float32 [count, C, H, W] in 0 .. 1, drawn with replacement by torch's generator."""
        rows = torch.randint(0, len(self._encoded), (count,)).tolist()
        try:
            return torch.from_numpy(np.stack([self._decoder.decode(self._encoded[row]) for row in rows]))
        except ValueError as error:
            raise DataError(f"synthesis.path '{self._path}' has an image that cannot be read: {error}") from error
