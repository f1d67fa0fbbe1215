"""The two unbiased codecs: their mean, their variance, and random choices that depend on nothing but the label."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from kdcore.labels import Encoded, SampledCodec, SparseLabels, ThresholdCodec, join, label_seeds
from kdcore.labels.counts import CountsCodec
from kdcore.labels.sampling import draw_counts, uniforms
from tests.support.labels import CODECS, KEY, codec_of, counts_of, logits_of, packed

LABELS = 10_000
LEVEL = 1e-6


def _permuted(logits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).permutation(logits).astype(np.float32))


def _zipf(classes: int, power: float = 1.1) -> torch.Tensor:
    return _permuted(-power * np.log(np.arange(1, classes + 1)))


def _one_hot(classes: int, other: float) -> torch.Tensor:
    logits = torch.full((classes,), other)
    logits[classes // 3] = 5.0
    return logits


def _masked(classes: int) -> torch.Tensor:
    logits = _zipf(classes)
    logits[::2] = logits[classes - 130 :] = float("-inf")
    return logits


# Logits and draws. Few draws over many classes are found block by block, the others in one cumulative sum.
CASES = {
    "zipf": (_zipf(1024), 50),
    "zipf, in blocks": (_zipf(1024), 7),
    "zipf, V not a multiple of the block": (_zipf(1163, 1.3), 9),
    "sure of one": (torch.cat([torch.tensor([9.0]), _zipf(700)]), 50),
    "one-hot": (_one_hot(300, float("-inf")), 50),
    "one-hot, in blocks": (_one_hot(1300, -300.0), 9),
    "uniform, one draw a class": (torch.zeros(50), 50),
    "uniform": (torch.zeros(333), 50),
    "uniform, in blocks": (torch.zeros(1151), 8),
    "two points": (torch.tensor([0.3, 0.7]).log(), 7),
    "one draw": (_zipf(257), 1),
    "masked classes": (_masked(400), 30),
    "masked classes, in blocks": (_masked(1300), 9),
    "V = 1": (torch.zeros(1), 5),
    "V = 2": (torch.tensor([0.0, 2.0]), 50),
}


def counts_by_class(codec: CountsCodec, logits: torch.Tensor) -> np.ndarray:
    """[LABELS, V] counts of as many labels of one distribution, through encode, pack and decode."""
    encoded = codec.encode(logits.expand(LABELS, -1), label_seeds(KEY, LABELS))
    labels = codec.decode(packed(codec, [encoded], [None], [LABELS]), [0], [LABELS])
    assert isinstance(labels, SparseLabels)
    assert labels.num_labels == LABELS
    found = np.zeros((LABELS, len(logits)), np.int32)
    found[labels.label_of_entry().numpy(), labels.ids.numpy()] = counts_of(labels, codec.draws)
    return found


def rarest(name: str, sums: np.ndarray, probs: np.ndarray, draws: int) -> float:
    """The smallest two-sided p-value of the counts of every class, and of the first classes together for every number
    of them, times the number of these tests (Bonferroni).

    A class of probability p has whole + Bernoulli(f) draws a label under `threshold`, where whole + f = p D, and
    Binomial(D, p) under `sampled`; so has any run of classes. The sum over labels is binomial either way, and the test
    exact. The tails are taken where float32, in which masses are computed, may have moved the probability to.
    """
    sums, probs = (np.concatenate([values, np.cumsum(values)]) for values in (sums, probs))
    slack = 1e-6 * probs * draws + 1e-12
    expected = probs * draws
    if name == "threshold":
        whole = np.floor(expected + slack)
        sums, trials, chance = sums - LABELS * whole, LABELS, expected - whole
    else:
        trials, chance, slack = LABELS * draws, probs, slack / draws
    low = binom.cdf(sums, trials, np.clip(chance - slack, 0, 1))
    high = binom.sf(sums - 1, trials, np.clip(chance + slack, 0, 1))
    return float(2 * len(probs) * np.minimum(low, high).min())


@pytest.mark.parametrize("name", ["threshold", "sampled"])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_10000_labels_is_the_teachers_distribution(name, case):
    """Exact binomial tests of every class and every first run of classes, with fixed seeds; together at level 1e-6."""
    logits, draws = CASES[case]
    codec = codec_of(name, draws, len(logits))
    counts = counts_by_class(codec, logits)
    probs = torch.softmax(logits.double(), 0).numpy()
    assert (counts.sum(1) == draws).all()
    assert (counts[:, probs == 0] == 0).all()
    assert rarest(name, counts.sum(0), probs, draws) > LEVEL
    if name == "threshold":
        _check_threshold_variance(counts, probs, draws)
    else:
        _check_sampled_variance(counts, probs, draws)


def _check_threshold_variance(counts: np.ndarray, probs: np.ndarray, draws: int) -> None:
    """Every count is p D rounded down or up. With the right mean that is a variance of f (1 - f) / D^2."""
    slack = 1e-6 * probs * draws
    assert (counts.min(0) >= np.floor(probs * draws - slack)).all()
    assert (counts.max(0) <= np.ceil(probs * draws + slack)).all()
    fraction = probs * draws % 1
    _check_total(counts, probs, draws, float((fraction * (1 - fraction)).sum()))


def _check_sampled_variance(counts: np.ndarray, probs: np.ndarray, draws: int) -> None:
    """Mean square deviation against D p (1 - p), in units of its own deviation, of classes drawn often enough."""
    spread = draws * probs * (1 - probs)
    often = LABELS * spread > 50
    if often.any():
        squares = ((counts[:, often] - draws * probs[often]) ** 2).mean(0)
        fourth = spread[often] * (1 + 3 * (draws - 2) * probs[often] * (1 - probs[often]))
        z = (squares - spread[often]) / np.sqrt((fourth - spread[often] ** 2) / LABELS + 1e-30)
        assert np.abs(z).max() < 7
    _check_total(counts, probs, draws, float(spread.sum()))


def _check_total(counts: np.ndarray, probs: np.ndarray, draws: int, wanted: float) -> None:
    """Squared distance of a label from the truth, in the mean of all labels."""
    expected = draws * probs  # |c - e|^2 = c c - 2 c e + e e makes no matrix of floats
    squares = np.einsum("nv,nv->n", counts, counts) - 2 * (counts @ expected) + expected @ expected
    error = squares.std() / np.sqrt(LABELS)
    assert abs(squares.mean() - wanted) < 6 * error + 1e-3


def test_threshold_has_less_variance_than_sampled_at_the_same_draws():
    logits, draws = CASES["zipf"]
    probs = torch.softmax(logits.double(), 0).numpy()
    fraction = probs * draws % 1
    assert (fraction * (1 - fraction)).sum() < 0.8 * draws * (probs * (1 - probs)).sum()


class NoStart(ThresholdCodec):
    """Points at equal distances, but always the same: every count is rounded in the same way."""

    @staticmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        return np.repeat((0.5 + np.arange(draws)[None]) / draws, len(seeds), 0)


class Early(ThresholdCodec):
    """A start that favours low numbers by a little."""

    @staticmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        return (uniforms(seeds, 1) ** 1.1 + np.arange(draws)) / draws


class EarlyDraws(SampledCodec):
    """Draws that favour the first classes by a little."""

    @staticmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        return np.sort(uniforms(seeds, draws) ** 1.02, axis=1)


class OneDraw(SampledCodec):
    """Unbiased, but all draws are one: the variance is D times too large."""

    @staticmethod
    def points(seeds: np.ndarray, draws: int) -> np.ndarray:
        return np.repeat(uniforms(seeds, 1), draws, 1)


@pytest.mark.parametrize(("kind", "name"), [(NoStart, "threshold"), (Early, "threshold"), (EarlyDraws, "sampled")])
def test_a_biased_sampler_fails_the_test_of_the_mean(kind, name):
    logits, draws = CASES["zipf"]
    counts = counts_by_class(kind(codec_of(name, draws, len(logits)).model), logits)
    probs = torch.softmax(logits.double(), 0).numpy()
    assert rarest(name, counts.sum(0), probs, draws) < LEVEL


def test_renormalised_top_k_fails_the_test_of_the_mean():
    logits, draws = CASES["zipf"]
    kept = torch.full_like(logits, float("-inf"))
    best = logits.topk(750).indices
    kept[best] = logits[best]
    counts = counts_by_class(codec_of("sampled", draws, len(logits)), kept)
    assert rarest("sampled", counts.sum(0), torch.softmax(logits.double(), 0).numpy(), draws) < LEVEL


def test_too_much_variance_fails_the_test_of_the_variance():
    logits, draws = CASES["uniform"]
    counts = counts_by_class(OneDraw(codec_of("sampled", draws, len(logits)).model), logits)
    with pytest.raises(AssertionError):
        _check_sampled_variance(counts, torch.softmax(logits.double(), 0).numpy(), draws)


# --- draws ---


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5),
    st.sampled_from([1, 2, 3, 127, 128, 129, 700, 5000]),
    st.sampled_from([1, 2, 7, 40, 600]),
    st.integers(0, 10_000),
    st.sampled_from([0.0, 1.0, 5.0, 60.0]),
    st.booleans(),
)
def test_draws_are_those_of_a_plain_cumulative_sum(rows, classes, draws, seed, scale, masked):
    """In float64 and over the whole vocabulary, but for points within float32's rounding of a border."""
    logits = logits_of(rows, classes, seed, scale)
    if masked and classes > 1:
        logits[:, classes // 2 :] = float("-inf")
    points = SampledCodec.points(label_seeds(KEY, rows, seed), draws)
    found, normalisers = draw_counts(logits, points)
    np.testing.assert_allclose(normalisers, logits.double().logsumexp(1).numpy(), rtol=1e-6, atol=1e-7)
    assert {name: values.dtype for name, values in found.items()} == {"ids": "i4", "counts": "u2", "entries": "i8"}
    ends = torch.softmax(logits.double(), 1).cumsum(1).numpy()
    hit = np.repeat(found["ids"], found["counts"]).reshape(rows, draws)
    for row in range(rows):
        low = np.where(hit[row] > 0, ends[row][np.maximum(hit[row] - 1, 0)], 0.0)
        assert (points[row] > low - 1e-6).all()
        assert (points[row] < ends[row][hit[row]] + 1e-6).all()
        assert not torch.isneginf(logits[row][hit[row]]).any()
        ids = found["ids"][found["entries"][:row].sum() :][: found["entries"][row]]
        assert (np.diff(ids) > 0).all()


@pytest.mark.parametrize("classes", [1, 5, 127, 128, 129, 640, 5000])
@pytest.mark.parametrize("point", [0.0, 1 - 2.0**-53, 1.0])  # (u + D - 1) / D can be rounded to 1
@pytest.mark.parametrize("logits", [lambda v: torch.zeros(v), lambda v: torch.linspace(-90, 0, v), _zipf])
def test_the_ends_of_the_line_fall_on_classes_that_exist(classes, point, logits):
    """A point at either end of the line belongs to the first or the last class that has any mass."""
    row = torch.full((classes + 300,), float("-inf"))
    row[150 : 150 + classes] = logits(classes)
    for draws in (1, 2, 4000):
        found, _ = draw_counts(row[None], np.full((1, draws), point))
        assert found["counts"].tolist() == [draws]
        assert 150 <= found["ids"][0] < 150 + classes
        assert found["ids"][0] == (150 if point == 0 else 149 + classes)


def test_no_labels_give_no_draws():
    for name in CODECS:
        found = codec_of(name, 5, 9).encode(torch.zeros(0, 9), np.empty(0, np.uint64))
        assert {key: values.shape for key, values in found.items()} == {"ids": (0,), "counts": (0,), "entries": (0,)}


# --- seeds ---


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["threshold", "sampled"]),
    st.integers(1, 40),
    st.sampled_from([1, 2, 100, 129, 3000]),
    st.sampled_from([1, 9, 60]),
    st.integers(0, 99),
    st.data(),
)
def test_labels_do_not_depend_on_their_batch(name, rows, classes, draws, seed, data):
    """Neither on where a batch begins and ends, nor on the order of rows, nor on windows."""
    codec = codec_of(name, draws, classes)
    logits, seeds = logits_of(rows, classes, seed), label_seeds(KEY, rows, seed)
    whole = codec.encode(logits, seeds)
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, rows], strict=True))
    _same(join([codec.encode(logits[a:b], seeds[a:b]) for a, b in bounds]), whole)
    order = np.array(data.draw(st.permutations(range(rows))))
    turned = codec.encode(logits[order], seeds[order])
    back = np.argsort(order)
    parts = _split(turned)
    _same(join([parts[i] for i in back]), whole)


def _split(labels: Encoded) -> list[Encoded]:
    ends = np.cumsum(labels["entries"])[:-1]
    columns = [np.split(labels[name], ends) for name in ("ids", "counts")]
    return [{"ids": i, "counts": c, "entries": np.array([len(i)])} for i, c in zip(*columns, strict=True)]


def _same(first: Encoded, second: Encoded) -> None:
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_chunked_drawing_equals_one_chunk(monkeypatch):
    logits, seeds = logits_of(64, 3000), label_seeds(KEY, 64)
    codec = codec_of("threshold", 9, 3000)
    whole = codec.encode(logits, seeds)
    monkeypatch.setattr("kdcore.labels.checks._CHUNK_ELEMENTS", 7 * 3000)
    _same(codec.encode(logits, seeds), whole)


@pytest.mark.parametrize("name", ["threshold", "sampled"])
def test_another_seed_gives_other_draws(name):
    codec, logits = codec_of(name, 20, 500), logits_of(200, 500, scale=1.0)
    first, other, key = (
        _split(codec.encode(logits, seeds))
        for seeds in (label_seeds(KEY, 200), label_seeds(KEY, 200, seed=1), label_seeds(KEY[::-1], 200))
    )
    for draws in (other, key):
        same = [a["ids"].tolist() == b["ids"].tolist() for a, b in zip(first, draws, strict=True)]
        assert sum(same) < 3


def test_seeds_depend_on_key_seed_and_position_alone():
    seeds = label_seeds(KEY, 1000, 3)
    np.testing.assert_array_equal(label_seeds(KEY, 400, 3), seeds[:400])
    assert label_seeds(KEY, 0).shape == (0,)
    for byte in range(16):
        altered = bytes(value ^ (1 if place == byte else 0) for place, value in enumerate(KEY))
        assert (label_seeds(altered, 1000, 3) != seeds).all()
    assert (label_seeds(KEY, 1000, 4) != seeds).all()


def test_seeds_never_change():
    """Written down: a store that is continued by a later version draws on as it began."""
    assert label_seeds(KEY, 3, 7).tolist() == [7648847984010998710, 13741501077909407940, 7414903467848149562]
    assert uniforms(label_seeds(KEY, 1, 7), 3).tolist() == [
        [0.5515405641161298, 0.9310311781762706, 0.5720461155994182]
    ]


def test_seeds_of_a_million_labels_differ():
    keys = [hashlib.blake2b(bytes([number]), digest_size=16).digest() for number in range(10)]
    # Keys that differ in one half only, and keys of counters, are the hard ones.
    keys += [bytes(8) + key[8:] for key in keys] + [key[:8] + bytes(8) for key in keys]
    seeds = np.concatenate([label_seeds(key, 40_000, seed) for key in keys for seed in (0, 1)])
    seeds.sort()
    assert len(seeds) > 1_000_000
    assert (seeds[1:] != seeds[:-1]).all()


@pytest.mark.parametrize("lag", [(1, 0), (0, 1), (1, 1), (2, 0)])
def test_uniforms_are_uniform_and_neighbours_do_not_know_each_other(lag):
    """chi-square of 16 x 16 cells, neighbours in labels and in draws, within 6 deviations of its mean."""
    numbers = uniforms(label_seeds(KEY, 100_000), 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    rows, columns = lag
    first = numbers[: len(numbers) - rows, : 3 - columns].ravel()
    second = numbers[rows:, columns:].ravel()
    cells, _, _ = np.histogram2d(first, second, bins=16, range=[[0, 1], [0, 1]])
    expected = len(first) / 256
    square = ((cells - expected) ** 2 / expected).sum()
    assert abs(square - 255) < 6 * np.sqrt(2 * 255)
