"""What a codec learns on a probe: how many draws a budget buys, the order of the classes, tables, scales."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kdcore.config.labels import (
    CodecConfig,
    DenseConfig,
    FeatureConfig,
    SampledConfig,
    SpanConfig,
    ThresholdConfig,
    TopKConfig,
)
from kdcore.errors import LabelError
from kdcore.labels.checks import check_logits, row_chunks
from kdcore.labels.codec import Codec, Encoded, join
from kdcore.labels.coder import CoderModel
from kdcore.labels.dense import DenseCodec
from kdcore.labels.feature import FeatureCodec, ShapedLayers
from kdcore.labels.sampled import SampledCodec
from kdcore.labels.sampling import draw_counts
from kdcore.labels.span import SpanCodec
from kdcore.labels.threshold import ThresholdCodec
from kdcore.labels.topk import TopKCodec

__all__ = ["DEFAULT_BUDGET", "Learnt", "ProbeBatch", "fixed_codec", "learn_codec"]

DEFAULT_BUDGET = 12.0
# Logits kept in memory for the search of a budget and the fidelity report: 256 MiB of float32.
_KEPT_ELEMENTS = 1 << 26
_SEARCHED_LABELS = 2048
# A larger budget buys no more than this: dense labels are smaller then.
_MOST_DRAWS = 4096


@dataclass(frozen=True)
class ProbeBatch:
    """Outputs [N, V] of the teacher, hard labels int64 [N] (or None) and seeds uint64 [N] of N labels."""

    outputs: Tensor
    targets: np.ndarray | None
    seeds: np.ndarray

    def every(self, step: int, start: int = 0) -> "ProbeBatch":
        """One label in `step`."""
        part = slice(start, None, step)
        targets = None if self.targets is None else self.targets[part]
        return ProbeBatch(self.outputs[part], targets, self.seeds[part])


@dataclass(frozen=True)
class Learnt:
    """A codec, and the part of the probe that was kept, for a look at what the codec loses."""

    codec: Codec
    kept: ProbeBatch


def fixed_codec(config: CodecConfig, num_classes: int) -> Codec | None:
    """The codec of a setting that needs no probe; None for the others."""
    if isinstance(config, TopKConfig):
        return TopKCodec(min(config.k, num_classes), num_classes, config.bits)
    if isinstance(config, DenseConfig):
        return DenseCodec(num_classes, config.bits)
    if isinstance(config, SpanConfig):
        return SpanCodec()
    return None


def learn_codec(
    config: CodecConfig,
    num_classes: int,
    batches: Iterable[ProbeBatch],
    layers: ShapedLayers = (),
) -> Learnt:
    """The codec of a setting for teachers of `num_classes` classes (features: of these `layers`).

    Runs through `batches` once. LabelError when they are empty or not finite.
    """
    stream = iter(batches)
    kept = _keep(stream)
    if isinstance(config, FeatureConfig):
        halves = FeatureCodec.of_shapes(layers)
        codec: Codec = halves
        if config.dtype == "int8":
            codec = FeatureCodec.learn(halves.layers, kept.outputs, halves.shapes)
    elif isinstance(config, ThresholdConfig | SampledConfig):
        codec = _learn_counts(config, num_classes, kept, stream)
    else:
        fixed = fixed_codec(config, num_classes)
        assert fixed is not None
        codec = fixed
    return Learnt(codec, kept)


def _keep(stream: Iterator[ProbeBatch]) -> ProbeBatch:
    """The first batches, as many as memory allows."""
    taken: list[ProbeBatch] = []
    size = 0
    for batch in stream:
        taken.append(batch)
        size += batch.outputs.numel()
        if size >= _KEPT_ELEMENTS:
            break
    if not size:
        raise LabelError(
            "a codec is learnt from a few labels, but the training split has none: every document has one token or "
            "none; see `data`"
        )
    room = max(1, _KEPT_ELEMENTS // taken[0].outputs.shape[1])
    targets = None if taken[0].targets is None else np.concatenate([b.targets for b in taken if b.targets is not None])
    outputs = torch.cat([batch.outputs.float() for batch in taken])[:room]
    seeds = np.concatenate([batch.seeds for batch in taken])[:room]
    return ProbeBatch(outputs, None if targets is None else targets[:room], seeds)


def _learn_counts(
    config: ThresholdConfig | SampledConfig, num_classes: int, kept: ProbeBatch, rest: Iterator[ProbeBatch]
) -> Codec:
    make = ThresholdCodec if isinstance(config, ThresholdConfig) else SampledCodec
    check_logits(kept.outputs, "the probe")
    draws = _draws_of(config, num_classes, kept)
    seen = _Seen(num_classes, draws, make)
    seen.add(kept)
    for batch in rest:
        check_logits(batch.outputs, "the probe")
        seen.add(batch)
    return make(seen.learn(), config.seed)


@dataclass
class _Seen:
    """Drawn labels of a probe, and the mass of every class."""

    num_classes: int
    draws: int
    make: type[ThresholdCodec] | type[SampledCodec]
    mass: np.ndarray = field(init=False)
    parts: list[Encoded] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mass = np.zeros(self.num_classes)

    def add(self, batch: ProbeBatch) -> None:
        """Draw the labels of a batch."""
        for rows in row_chunks(*batch.outputs.shape):
            self.mass += batch.outputs[rows].float().softmax(1).sum(0, dtype=torch.float64).cpu().numpy()
        self.parts.append(draw_counts(batch.outputs, self.make.points(batch.seeds, self.draws))[0])
        self.targets.append(np.full(len(batch.seeds), -1) if batch.targets is None else batch.targets)

    def learn(self) -> CoderModel:
        """The tables."""
        drawn = join(self.parts)
        targets = np.concatenate(self.targets)
        return CoderModel.learn(self.mass, self.draws, drawn["ids"], drawn["counts"], drawn["entries"], targets)


def _draws_of(config: ThresholdConfig | SampledConfig, num_classes: int, kept: ProbeBatch) -> int:
    if config.draws is not None:
        return config.draws
    assert isinstance(config, ThresholdConfig)
    if config.tau is not None:
        return round(1 / config.tau)
    return _draws_within(config.budget_bytes or DEFAULT_BUDGET, num_classes, kept)


def _draws_within(budget: float, num_classes: int, kept: ProbeBatch) -> int:
    """The most draws whose labels take about `budget` bytes; LabelError when even one draw takes more.

    Bytes grow like a power of the draws, so the search works on logarithms. Tables learnt on half of the labels take
    more for the other half, and less for their own, than tables of the whole probe will: the mean of both is the
    estimate.
    """
    least = _bytes_at(1, num_classes, kept)
    if least > budget:
        raise LabelError(
            f"one draw a label takes about {least:.2f} bytes, but labels.codec.budget_bytes is {budget:g}: raise it"
        )
    low, high = 1, _MOST_DRAWS
    guess = 16
    for _ in range(8):
        size = _bytes_at(guess, num_classes, kept)
        low, high = (guess, high) if size <= budget else (low, guess)
        if high - low <= max(1, low // 50):
            break
        aim = guess * (budget / size) ** 1.4
        guess = int(min(max(aim, low + 1), high - 1, 2 * math.sqrt(low * high) if high < _MOST_DRAWS else 8 * low))
    return low


def _bytes_at(draws: int, num_classes: int, kept: ProbeBatch) -> float:
    step = max(1, len(kept.seeds) // _SEARCHED_LABELS)
    seen = [_Seen(num_classes, draws, ThresholdCodec) for _ in range(2)]
    for start, half in zip((0, step), seen, strict=True):
        half.add(kept.every(2 * step, start) if len(kept.seeds) > step else kept)
    model = seen[0].learn()
    drawn, targets = join(seen[1].parts), np.concatenate(seen[1].targets)
    apart = model.cost(model.symbols(drawn["ids"], drawn["counts"], drawn["entries"], targets))
    return (apart + model.bytes_per_label) / 2
