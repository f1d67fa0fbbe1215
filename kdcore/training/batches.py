"""Micro-batches as a pure function of (step, rank, micro-batch index), for any number of ranks."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kdcore.config import TrainingConfig
from kdcore.data.order import sample_index
from kdcore.labels.soft_labels import SoftLabels


@dataclass(frozen=True)
class TextBatch:
    """`input_ids` int64 [B, L] padded on the right; its N valid tokens are at `positions` [N] of the flat B x L.

    `targets` int64 [N] are the next tokens; `labels` holds N soft labels, or None. N may be 0: a rank without work.
    """

    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    labels: SoftLabels | None

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on `device`."""
        labels = None if self.labels is None else self.labels.to(device)
        return TextBatch(self.input_ids.to(device), self.positions.to(device), self.targets.to(device), labels)


@dataclass(frozen=True)
class ImageBatch:
    """`pixels` float32 [B, C, H, W], `targets` int64 [N], N soft labels or None. N < B only for a rank without work."""

    pixels: Tensor
    targets: Tensor
    labels: SoftLabels | None

    def to(self, device: torch.device) -> "ImageBatch":
        """The same batch on `device`."""
        labels = None if self.labels is None else self.labels.to(device)
        return ImageBatch(self.pixels.to(device), self.targets.to(device), labels)


Batch = TextBatch | ImageBatch


class Samples(Protocol):
    """What is trained on: sequences or images, by number."""

    def __len__(self) -> int:
        """How many there are in an epoch."""
        ...

    def tokens(self, indices: np.ndarray) -> int:
        """Valid tokens (text) or images among `indices`."""
        ...

    def batch(self, indices: np.ndarray) -> Batch:
        """The samples `indices` as one micro-batch; an empty one for no index."""
        ...


@dataclass(frozen=True)
class StepPlan:
    """How the samples of an optimizer step are dealt to ranks and micro-batches."""

    batch_size: int
    world: int
    micro_batch_size: int
    seed: int

    @classmethod
    def of(cls, config: TrainingConfig, world: int, seed: int) -> "StepPlan":
        """Micro-batches as configured, or one per step and rank."""
        share = math.ceil(config.batch_size / world)
        return cls(config.batch_size, world, min(config.micro_batch_size or share, share), seed)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of every rank in every step; the last may be smaller, or empty."""
        return math.ceil(math.ceil(self.batch_size / self.world) / self.micro_batch_size)

    def step_indices(self, step: int, num_samples: int) -> np.ndarray:
        """The samples int64 [batch_size] of an optimizer step: the same for every number of ranks."""
        return sample_index(self.seed, step, self.batch_size, num_samples)

    def micro_indices(self, step: int, rank: int, micro: int, num_samples: int) -> np.ndarray:
        """The part of a step's samples that one rank sees in one micro-batch."""
        mine = self.step_indices(step, num_samples)[rank :: self.world]
        return mine[micro * self.micro_batch_size : (micro + 1) * self.micro_batch_size]
