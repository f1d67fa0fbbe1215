"""Codecs and labels for tests of the codecs."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from kdcore.labels import Codec, Encoded, RowView, SampledCodec, SoftLabels, SparseLabels, ThresholdCodec, label_seeds
from kdcore.labels.coder import CoderModel

CODECS = {"sampled": SampledCodec, "threshold": ThresholdCodec}
KEY = bytes(range(16))


def logits_of(rows: int, classes: int, seed: int = 0, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


def no_seeds(rows: int) -> np.ndarray:
    """For codecs that draw nothing."""
    return np.zeros(rows, np.uint64)


def random_labels(
    rng: np.random.Generator, num_labels: int, draws: int, classes: int, ids: np.ndarray | None = None
) -> Encoded:
    """Labels of all sizes: from one class with every draw to as many classes as there can be.

    Ids are drawn from `ids` where it is given, else mostly from the first classes.
    """
    pool = np.arange(classes) if ids is None else ids
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(num_labels):
        most = min(draws, len(pool))
        n = int(rng.choice([1, most, 1 + rng.integers(most), 1 + rng.binomial(most - 1, min(1.0, 4 / most))]))
        skew = rng.random(len(pool)) ** 3 if len(pool) < 5000 else None
        chosen = (
            rng.choice(len(pool), n, replace=False)
            if skew is None
            else np.argsort(skew + np.arange(len(pool)) / max(1, len(pool)) * rng.integers(2))[:n]
        )
        counts = 1 + rng.multinomial(draws - n, rng.dirichlet(np.full(n, 0.3)))
        parts.append((np.sort(pool[chosen]), counts))
    empty = np.empty(0, np.int32)
    return {
        "ids": np.concatenate([empty, *(i.astype(np.int32) for i, _ in parts)]),
        "counts": np.concatenate([empty, *(c for _, c in parts)]).astype(np.uint16),
        "entries": np.array([len(i) for i, _ in parts], np.int64),
    }


def model_of(labels: Encoded, draws: int, classes: int, targets: np.ndarray | None = None) -> CoderModel:
    """Tables learnt on `labels`; the prior is how often each class occurs there."""
    prior = np.bincount(labels["ids"], labels["counts"], minlength=classes)
    return CoderModel.learn(prior, draws, labels["ids"], labels["counts"], labels["entries"], targets)


def codec_of(name: str, draws: int, classes: int, seed: int = 0, num_labels: int = 64) -> SampledCodec | ThresholdCodec:
    """A codec of some tables; what they are only decides how many bytes a label takes."""
    labels = random_labels(np.random.default_rng(seed), num_labels, draws, classes, np.arange(min(classes, 300)))
    return CODECS[name](model_of(labels, draws, classes), seed)


def packed(codec: Codec, rows: Sequence[Encoded], targets: Sequence[np.ndarray | None], sizes: Sequence[int]) -> list:
    """Rows as a reader gives them."""
    columns = codec.pack(rows, targets)
    return [RowView(*row) for row in zip(columns, sizes, targets, strict=True)]


def round_trip(codec: Codec, outputs: torch.Tensor, targets: np.ndarray | None = None) -> SoftLabels:
    """Outputs through encode, pack and decode, as one row."""
    rows = len(outputs)
    encoded = codec.encode(outputs, label_seeds(KEY, rows))
    return codec.decode(packed(codec, [encoded], [targets], [rows]), [0], [rows])


def counts_of(labels: SparseLabels, draws: int) -> np.ndarray:
    """The counts behind the weights; they must be whole."""
    counts = labels.weights.double().numpy() * draws
    np.testing.assert_allclose(counts, counts.round(), rtol=0, atol=1e-2)
    return counts.round().astype(np.int64)


def per_label(ids: np.ndarray, counts: np.ndarray, entries: np.ndarray) -> list[dict[int, int]]:
    """Labels as {class: count}, for comparisons that do not ask about order."""
    ends = np.cumsum(entries)[:-1]
    pairs = zip(np.split(np.asarray(ids), ends), np.split(np.asarray(counts), ends), strict=True)
    found = [dict(zip(i.tolist(), c.tolist(), strict=True)) for i, c in pairs] if len(entries) else []
    assert sum(len(label) for label in found) == len(ids), "a class occurs twice in a label"
    return found


def without_numba(patch: pytest.MonkeyPatch) -> None:
    """What happens where numba is not installed."""
    patch.setattr("kdcore.labels.coder.blocks.compiled", lambda: None)
    patch.setattr("kdcore.labels.coder.rans.compiled", lambda: None)
