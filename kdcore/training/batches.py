"""What a student is given at one time, and what it is taken from."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from kdcore.labels.soft_labels import SoftLabels
from kdcore.labels.tensors import OfTensors
from kdcore.training.packing import Layout


@dataclass(frozen=True)
class TextBatch(OfTensors):
    """`input_ids` int64 [B, L], sequences and padding; its N valid tokens are at `positions` [N] of the flat B x L.

    `targets` int64 [N] are the next tokens; `labels` holds N soft labels, or None. N may be 0: a rank without work.
    `position_ids` int64 [B, L] restart with each sequence of a packed batch; None: one sequence a row, padded on the
    right. `borders` int32 [S + 1] are where the S sequences of a batch of one row begin, and its end; else None.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    labels: SoftLabels | None
    position_ids: Tensor | None = None
    borders: Tensor | None = None
    longest: int = 0

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.targets)

    @property
    def num_slots(self) -> int:
        """Tokens that go through the student, padding included."""
        return self.input_ids.numel()

    def inputs(self) -> dict[str, Any]:
        """What the decoder of a transformers model is called with.

        No attention mask: attention is causal and padding is on the right, so that it is never looked at; and it is
        where there is no mask that transformers finds from `position_ids` that a row holds several sequences.
        """
        inputs: dict[str, Any] = {"input_ids": self.input_ids}
        if self.position_ids is not None:
            inputs["position_ids"] = self.position_ids
        if self.borders is not None:
            inputs |= {"cu_seq_lens_q": self.borders, "cu_seq_lens_k": self.borders}
            inputs |= {"max_length_q": self.longest, "max_length_k": self.longest}
        return inputs


@dataclass(frozen=True)
class ImageBatch(OfTensors):
    """`pixels` float32 [B, C, H, W], `targets` int64 [N], B soft labels or None. N < B only for a rank without work.

    Pictures that are mixed of two images are `shares` float32 [N] of the one whose class is in `targets`, and else of
    one of `partner_targets` int64 [N]. Both are None where none can be; a picture that is not mixed has share 1.
    `indices` int64 [N] are the numbers of the images in the training set, the same for all views of one.
    """

    pixels: Tensor
    targets: Tensor
    labels: SoftLabels | None
    partner_targets: Tensor | None = None
    shares: Tensor | None = None
    indices: Tensor | None = None

    @property
    def num_slots(self) -> int:
        """Images that go through the student."""
        return len(self.pixels)

    @property
    def inputs(self) -> Tensor:
        """What the student is called with."""
        return self.pixels

    @property
    def mask(self) -> Tensor | None:
        """None: images have no padding."""
        return None

    def placeholder(self) -> "ImageBatch":
        """In place of no image, one of the first class."""
        first = self.targets.new_zeros(1)
        return ImageBatch(self.pixels[:1], first, self.labels, indices=first)


@dataclass(frozen=True)
class ClassifiedTextBatch(OfTensors):
    """B texts, padded to the longest, their classes `targets` int64 [N], and B soft labels or None.

    `tokens` int64 [B, 3, L] as a TokenClassifier takes them. N < B only for a rank without work. `indices` int64 [N]
    are the numbers of the texts in the training set.
    """

    partner_targets: ClassVar[None] = None
    shares: ClassVar[None] = None
    """As of images: texts are never mixed."""
    tokens: Tensor
    targets: Tensor
    labels: SoftLabels | None
    indices: Tensor | None = None

    @property
    def num_slots(self) -> int:
        """Texts that go through the student."""
        return len(self.tokens)

    @property
    def inputs(self) -> Tensor:
        """What the student is called with."""
        return self.tokens

    @property
    def mask(self) -> Tensor | None:
        """Where there is a token, bool [B, L]."""
        return self.tokens[:, 1].bool()

    def placeholder(self) -> "ClassifiedTextBatch":
        """In place of no text, one of the first class."""
        first = self.targets.new_zeros(1)
        return replace(self, targets=first, indices=first)


Batch = TextBatch | ImageBatch | ClassifiedTextBatch
"""Of any kind of sample."""


class Samples(Protocol):
    """What is trained on: sequences or images, by number. View v of sample i has the number i + N v."""

    lengths: np.ndarray
    """Tokens that each puts through the student, int64 [N > 0]; ones for images."""

    views: int | None
    """How many views there are of each; 1 where it is trained on as it is, None where there is one for every epoch."""

    notes: tuple[str, ...]
    """What a person should know of them before the first step."""

    @property
    def elsewhere(self) -> bool:
        """Whether some of what `batch` reads lies on another machine, from which `bring` copies it."""
        ...

    def __len__(self) -> int:
        """How many there are in an epoch."""
        ...

    def tokens(self, indices: np.ndarray) -> int:
        """Valid tokens (text) or images among `indices`."""
        ...

    def digests(self, indices: np.ndarray) -> np.ndarray:
        """A digest uint64 of what each of `indices` is made of, by which two runs are compared."""
        ...

    def batch(self, indices: np.ndarray, layout: Layout = "padded") -> Batch:
        """The samples `indices` as one micro-batch; an empty one for no index."""
        ...

    def bring(self, indices: np.ndarray) -> None:
        """Copies to this machine what `batch` reads for these samples, many files at once."""
        ...
