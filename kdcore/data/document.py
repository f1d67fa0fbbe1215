"""Samples as every part of the project sees them: a document, an image, and a reference to either."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["text", "image"]
Split = Literal["train", "heldout"]

WHOLE_FILE = -1


@dataclass(frozen=True)
class TextDocument:
    """One document of text."""

    name: str
    text: str


@dataclass(frozen=True)
class ImageSample:
    """One image: `pixels` float32 [C, H, W], normalised; `target` is its class, None if unknown."""

    name: str
    pixels: np.ndarray
    target: int | None


@dataclass(frozen=True, order=True)
class SampleRef:
    """Where one sample is: its file and line or row (-1: the whole file), and about how many bytes it takes.

    `name` does not depend on the folder the corpus lies in, so splits and keys agree between machines.
    """

    name: str
    source: str
    index: int
    num_bytes: int


Refs = list[SampleRef]
