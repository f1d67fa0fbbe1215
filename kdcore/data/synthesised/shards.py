"""The shard of a unit of made images: the ordinary columns of a sample, the image as PNG, and where it is from."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.errors import missing_extra
from kdcore.identity import KEY_BYTES, sample_key_array

__all__ = ["IMAGE_SHARD", "PROVENANCE", "MadeImage", "from_png", "image_batches", "to_bytes"]

PROVENANCE = ("method", "generation", "unit", "seed", "step", "losses")
"""The columns that say how a sample was made; `losses` are JSON."""
_BATCH_ROWS = 4096

IMAGE_SHARD = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES)),
        pa.field("name", pa.string()),
        pa.field("occurrences", pa.int32()),
        pa.field("target", pa.int32()),
        pa.field("image", pa.binary()),
        pa.field("method", pa.string()),
        pa.field("generation", pa.int32()),
        pa.field("unit", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("step", pa.int32()),
        pa.field("losses", pa.string()),
    ]
)
"""The columns of a shard."""


@dataclass(frozen=True)
class MadeImage:
    """One image, `pixels` uint8 [H, W, C], the class it was made for, and what its maker says of it."""

    name: str
    pixels: np.ndarray = field(repr=False)
    target: int
    method: str
    generation: int
    unit: str
    seed: int
    step: int
    losses: Mapping[str, float]


def to_bytes(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Normalised images float [N, C, H, W] as uint8 [N, H, W, C]: what is kept of them, and learnt from."""
    of_channel = (np.asarray(values, np.float64)[:, None, None] for values in (std, mean))
    scale, shift = of_channel
    values = np.rint((images * scale + shift) * 255).clip(0, 255)
    return values.astype(np.uint8).transpose(0, 2, 3, 1)


def image_batches(images: Sequence[MadeImage]) -> Iterator[pa.RecordBatch]:
    """Record batches of IMAGE_SHARD, in the order of the images."""
    for start in range(0, len(images), _BATCH_ROWS):
        yield _batch(images[start : start + _BATCH_ROWS])


def _batch(images: Sequence[MadeImage]) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        "key": [sample_key_array(image.pixels) for image in images],
        "occurrences": [1] * len(images),
        "image": [_png(image.pixels) for image in images],
        "losses": [json.dumps(dict(image.losses), allow_nan=False) for image in images],
    }
    for entry in IMAGE_SHARD:
        if entry.name not in columns:
            columns[entry.name] = [getattr(image, entry.name) for image in images]
    return pa.record_batch([pa.array(columns[entry.name], entry.type) for entry in IMAGE_SHARD], schema=IMAGE_SHARD)


def from_png(data: bytes) -> np.ndarray:
    """The pixels of a made image, uint8 [H, W, C]."""
    with _pillow().open(io.BytesIO(data)) as image:
        pixels = np.array(image, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow", "vision", "Writing and reading images") from error
    return Image


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    _pillow().fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()
