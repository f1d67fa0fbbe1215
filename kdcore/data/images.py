"""Encoded image bytes to normalised pixels."""

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcore.config.data import ImageData
from kdcore.data.document import ImageSample
from kdcore.errors import ConfigError, missing_extra

if TYPE_CHECKING:
    from PIL import Image


class ImageDecoder:
    """Decodes images as a recipe's `data` section says; resizes and normalises them, unless views of them are made."""

    def __init__(self, config: ImageData) -> None:
        for setting, values in (("mean", config.mean), ("std", config.std)):
            if len(values) != config.channels:
                raise ConfigError(
                    f"data.{setting} needs one value a channel: got {list(values)} for data.channels "
                    f"{config.channels}. Set data.{setting}, for grey images to one value such as [0.5]."
                )
        self._mode = "L" if config.channels == 1 else "RGB"
        self._size = config.size
        self._is_viewed = config.views is not None
        self._mean = np.asarray(config.mean, dtype=np.float32)[:, None, None]
        self._std = np.asarray(config.std, dtype=np.float32)[:, None, None]

    def sample(self, name: str, image: Any, target: Any) -> ImageSample:
        """A row's image, encoded bytes or a struct with `bytes`, and its class. Raises ValueError for another."""
        data = image.get("bytes") if isinstance(image, Mapping) else image
        if not isinstance(data, bytes) or not isinstance(target, int) or target < 0:
            raise ValueError(f"needs bytes and a label of at least 0, has {type(data).__name__} and {target!r}")
        return ImageSample(name, self.decode(data), target)

    def decode(self, data: bytes) -> np.ndarray:
        """Pixels as ImageSample has them. Raises ValueError for bytes that are no whole image."""
        try:
            from PIL import Image
        except ImportError as error:
            raise missing_extra("pillow", "vision", "Reading images") from error
        try:
            with Image.open(io.BytesIO(data)) as image:
                whole = _in_bytes(image).convert(self._mode)
                if self._is_viewed:
                    return np.array(whole, dtype=np.uint8).reshape(whole.height, whole.width, -1)
                resized = whole.resize((self._size, self._size), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"not a whole image: {error}") from error
        values = np.asarray(resized, dtype=np.float32).reshape(self._size, self._size, -1)
        return (values.transpose(2, 0, 1) / 255 - self._mean) / self._std


def _in_bytes(image: "Image.Image") -> "Image.Image":
    """Of 16-bit grey the high byte of each value, as PIL itself reads 16-bit colours; it would cut grey off at 255.

    ValueError for 32-bit values, of which nothing says how large they get.
    """
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # PIL scales these to 65,535
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"values of 32 bits (PIL's mode {image.mode}) have no brightest one: convert it to 8 or 16")
    return image
