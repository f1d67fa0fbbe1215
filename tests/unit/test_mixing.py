"""Every rule of a mix against what it means on whole distributions, and what it refuses."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.errors import LabelError
from kdcore.labels import (
    DenseCodec,
    DenseLabels,
    FeatureLabels,
    SampledCodec,
    SoftLabels,
    SparseLabels,
    ThresholdCodec,
    TopKLabels,
    label_seeds,
)
from kdcore.labels.checks import row_chunks
from kdcore.labels.mixing import (
    agreement_shares,
    arithmetic,
    cells,
    choose,
    common_form,
    cut_classes,
    entropy_shares,
    geometric,
    in_form,
    max_confidence,
    min_ce,
    random_teacher,
    side_by_side,
    target_log_probs,
)
from kdcore.losses.response.soft_targets import soft_target_loss
from tests.support.labels import codec_of, logits_of, packed, round_trip

SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=15, deadline=None)
KEYS = (bytes(range(16)), bytes(range(16, 32)))


def dense_of(seed: int, rows: int = 4, classes: int = 11) -> DenseLabels:
    return DenseLabels(logits_of(rows, classes, seed, 2.0).log_softmax(1))


def topk_of(labels: DenseLabels, k: int) -> TopKLabels:
    found = in_form(labels, "topk", k)
    assert isinstance(found, TopKLabels)
    return found


def drawn_of(seed: int, rows: int = 4, classes: int = 11, draws: int = 6, name: str = "threshold") -> SparseLabels:
    labels = round_trip(codec_of(name, draws, classes), logits_of(rows, classes, seed, 2.0))
    assert isinstance(labels, SparseLabels)
    return labels


def whole(labels: SoftLabels) -> torch.Tensor:
    """Masses float64 [N, V + 1], the tail last."""
    found = torch.zeros(labels.num_labels, labels.num_classes + 1, dtype=torch.float64)
    if isinstance(labels, DenseLabels):
        found[:, :-1] = labels.log_probs.double().exp()
    elif isinstance(labels, SparseLabels):
        found[labels.label_of_entry(), labels.ids] = labels.weights.double()
    elif isinstance(labels, TopKLabels):
        names, mass = labels.ids >= 0, labels.log_probs.double().exp()
        assert (mass[~names] == 0).all()
        for row in labels.ids:
            assert len(set(row[row >= 0].tolist())) == int((row >= 0).sum())
        found.scatter_add_(1, labels.ids.clamp(min=0), mass)
        found[:, -1] = labels.tail_log_prob.double().exp()
    return found


def weights_of(seed: int, teachers: int, rows: int | None = None) -> torch.Tensor:
    shape = (teachers,) if rows is None else (teachers, rows)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double().softmax(0)


def is_distribution(labels: SoftLabels) -> None:
    masses = whole(labels)
    torch.testing.assert_close(masses.sum(1), torch.ones(labels.num_labels).double(), rtol=0, atol=1e-5)


@FEW
@given(SEEDS, st.integers(1, 3), st.booleans())
def test_the_arithmetic_mean_of_dense_labels_is_exact(seed, teachers, each):
    labels = [dense_of(seed + number) for number in range(teachers)]
    weights = weights_of(seed, teachers, 4 if each else None)
    wide = weights if each else weights[:, None].expand(-1, 4)
    wanted = sum(share[:, None] * whole(label) for share, label in zip(wide, labels, strict=True))
    mixed = arithmetic(labels, weights)
    assert isinstance(mixed, DenseLabels)
    torch.testing.assert_close(whole(mixed), wanted, rtol=1e-5, atol=1e-7)


@FEW
@given(SEEDS, st.booleans())
def test_the_arithmetic_mean_of_drawn_labels_adds_up_their_entries(seed, with_dense):
    labels: list[SoftLabels] = [drawn_of(seed), drawn_of(seed + 1, draws=9, name="sampled")]
    labels += [dense_of(seed + 2)] if with_dense else []
    weights = weights_of(seed, len(labels), 4)
    mixed = arithmetic(labels, weights)
    assert isinstance(mixed, SparseLabels)
    wanted = sum(share[:, None] * whole(label) for share, label in zip(weights, labels, strict=True))
    torch.testing.assert_close(whole(mixed), wanted, rtol=1e-5, atol=1e-7)
    places = mixed.label_of_entry() * 11 + mixed.ids
    assert len(places.unique()) == len(places), "a class is named twice in a label"


@FEW
@given(SEEDS, st.integers(1, 4), st.integers(0, 5))
def test_numpy_and_the_compiled_loop_merge_to_the_same_bits(seed, teachers, rows):
    labels, weights = [drawn_of(seed + number, rows=rows) for number in range(teachers)], weights_of(seed, teachers)
    found = arithmetic(labels, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcore.labels.mixing.merge._compiled", lambda: None)
        again = arithmetic(labels, weights)
    assert isinstance(found, SparseLabels)
    assert isinstance(again, SparseLabels)
    for name in ("ids", "weights", "offsets"):
        assert torch.equal(getattr(found, name), getattr(again, name))


def both_routes(labels: Sequence[SoftLabels], weights: torch.Tensor) -> list[TopKLabels]:
    """The mean by the compiled loop and by numpy, after a look that they say the same."""
    found = arithmetic(labels, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcore.labels.mixing.merge._compiled", lambda: None)
        again = arithmetic(labels, weights)
    assert isinstance(found, TopKLabels)
    assert isinstance(again, TopKLabels)
    assert torch.equal(found.ids, again.ids)
    for name in ("log_probs", "tail_log_prob"):
        torch.testing.assert_close(getattr(found, name), getattr(again, name), rtol=1e-6, atol=1e-6)
    return [found, again]


def cells_of(rows: int, k: int, padding: int, tail: bool, seed: int) -> TopKLabels:
    """Labels that name k of 11 classes, the last `padding` places of each row empty."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.rand(rows, 11, generator=generator).argsort(1)[:, :k]
    logits = 2 * torch.randn(rows, k + 1, generator=generator)
    logits[:, k - padding : k] = -math.inf
    logits[:, k] += 0.0 if tail else -math.inf
    logs = logits.log_softmax(1)
    return TopKLabels(ids.masked_fill(logs[:, :k] == -math.inf, -1), logs[:, :k].clone(), logs[:, k].clone(), 11)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 11), st.integers(0, 3), st.booleans()), min_size=1, max_size=3),
    st.sampled_from([0, 1, 5]),
    st.booleans(),
    SEEDS,
)
def test_the_mean_of_named_cells_is_that_of_dense_float64(teachers, rows, silent, seed):
    labels = [
        cells_of(rows, k, min(padding, k - 1), tail, seed + number)
        for number, (k, padding, tail) in enumerate(teachers)
    ]
    weights = weights_of(seed, len(labels), rows)
    if silent and len(labels) > 1:
        weights[-1] = 0
        weights /= weights.sum(0)
    wanted = torch.einsum("mn,mnv->nv", weights, torch.stack([whole(label) for label in labels]))
    for mixed in both_routes(labels, weights):
        torch.testing.assert_close(whole(mixed), wanted, rtol=1e-5, atol=1e-7)
        named = [dict.fromkeys(i for label in labels for i in label.ids[row].tolist() if i >= 0) for row in range(rows)]
        width = mixed.ids.shape[1]
        assert mixed.ids.tolist() == [[*row, *[-1] * (width - len(row))] for row in named], "in the order of teachers"
        assert len(labels) == 1 or width == max([1, *map(len, named)])


@FEW
@given(SEEDS, st.integers(0, 5))
def test_drawn_labels_beside_cells_are_merged_alike_by_both_routes(seed, rows):
    labels: list[SoftLabels] = [topk_of(dense_of(seed, rows), 3), drawn_of(seed + 1, rows=rows)]
    weights = weights_of(seed, 2)
    wanted = sum(float(share) * whole(label) for share, label in zip(weights, labels, strict=True))
    for mixed in both_routes(labels, weights):
        torch.testing.assert_close(whole(mixed), wanted, rtol=1e-5, atol=1e-7)


def test_classes_that_share_a_slot_are_kept_apart():
    """Of 200 classes in 2,048 slots several begin at one that is taken; a row also meets those of the row before."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randperm(30_000, generator=generator)[:400]
    labels: list[SoftLabels] = []
    for _ in range(3):
        ids = known[torch.rand(20, 400, generator=generator).argsort(1)[:, :80]]
        logs = torch.randn(20, 81, generator=generator).log_softmax(1)
        labels.append(TopKLabels(ids, logs[:, :80].contiguous(), logs[:, 80].contiguous(), 30_000))
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    wanted = sum(float(share) * whole(label) for share, label in zip(weights, labels, strict=True))
    for mixed in both_routes(labels, weights):
        torch.testing.assert_close(whole(mixed), wanted, rtol=1e-5, atol=1e-7)


@FEW
@given(SEEDS)
def test_a_student_hears_the_mean_of_its_teachers(seed):
    """The gradient from mixed draws is the weighted sum of the gradients from each."""
    labels, weights = [drawn_of(seed), drawn_of(seed + 1)], torch.tensor([0.3, 0.7])
    logits, targets = logits_of(4, 11, seed + 2), torch.zeros(4, dtype=torch.int64)

    def gradient(label: SoftLabels) -> torch.Tensor:
        at = logits.clone().requires_grad_()
        soft_target_loss(at, label, targets)[0].backward()
        assert at.grad is not None
        return at.grad

    wanted = sum(float(share) * gradient(label) for share, label in zip(weights, labels, strict=True))
    torch.testing.assert_close(gradient(arithmetic(labels, weights)), wanted, rtol=1e-4, atol=1e-6)


def test_the_arithmetic_mean_of_unbiased_labels_is_unbiased():
    """10,000 labels of one position by two teachers: no class is further from the mixture than six deviations."""
    rows, classes, draws = 10_000, 40, (7, 12)
    teachers = [logits_of(1, classes, seed, 1.5) for seed in (1, 2)]
    codecs = [codec_of("threshold", draws[0], classes), codec_of("sampled", draws[1], classes)]
    weights = torch.tensor([0.4, 0.6]).double()
    parts = []
    for codec, logits, key in zip(codecs, teachers, KEYS, strict=True):
        assert isinstance(codec, ThresholdCodec | SampledCodec)
        encoded = codec.encode(logits.expand(rows, -1), label_seeds(key, rows))
        parts.append(codec.decode(packed(codec, [encoded], [None], [rows]), [0], [rows]))
    mixed = whole(arithmetic(parts, weights))[:, :-1]
    probs = torch.cat(teachers).double().softmax(1)
    wanted = (weights[:, None] * probs).sum(0)
    variance = sum(w**2 * p * (1 - p) / d for w, p, d in zip(weights, probs, draws, strict=True))
    assert isinstance(variance, torch.Tensor)
    assert ((mixed.mean(0) - wanted).abs() < 6 * (variance / rows).sqrt() + 1e-6).all()


@FEW
@given(SEEDS, st.integers(1, 11), st.integers(1, 11))
def test_the_arithmetic_mean_of_topk_labels_is_within_its_bound(seed, first, second):
    teachers = [dense_of(seed), dense_of(seed + 1)]
    labels = [topk_of(label, k) for label, k in zip(teachers, (first, second), strict=True)]
    weights = weights_of(seed, 2)
    mixed = arithmetic(labels, weights)
    assert isinstance(mixed, TopKLabels)
    is_distribution(mixed)
    truth = sum(float(w) * whole(label) for w, label in zip(weights, teachers, strict=True))
    assert isinstance(truth, torch.Tensor)
    places = mixed.ids.where(mixed.ids >= 0, 11)
    found, named = whole(mixed), torch.zeros(4, 12, dtype=torch.bool).scatter_(1, places, True)
    named[:, -1] = False
    truth[:, -1] = (truth * ~named).sum(1)
    distance = ((found - truth).abs() * (named | (torch.arange(12) == 11))).sum(1) / 2
    bound = torch.zeros(4).double()
    for weight, label in zip(weights, labels, strict=True):
        others = named[:, :-1].sum(1) - label.ids.shape[1]
        least = label.log_probs.double().exp().amin(1)
        bound += weight * torch.minimum(label.tail_log_prob.double().exp(), others * least)
    assert (distance <= bound + 1e-6).all()
    if first == second == 11:
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-6)


@FEW
@given(SEEDS, st.integers(1, 11))
def test_a_dense_teacher_beside_topk_is_exact_on_its_cells(seed, k):
    dense, topk = dense_of(seed), topk_of(dense_of(seed + 1), k)
    mixed = whole(arithmetic([dense, topk], torch.tensor([0.25, 0.75])))
    mine = whole(dense)
    named = torch.zeros(4, 12, dtype=torch.bool).scatter_(1, topk.ids, True)
    mine[:, -1] = (mine * ~named).sum(1)
    named[:, -1] = True
    torch.testing.assert_close(mixed, (0.25 * mine + 0.75 * whole(topk)) * named, rtol=1e-5, atol=1e-6)


def test_drawn_labels_beside_topk_are_named_too():
    topk = TopKLabels(torch.tensor([[3, 1]]), torch.tensor([[0.5, 0.3]]).log(), torch.tensor([0.2]).log(), 6)
    drawn = SparseLabels(torch.tensor([5, 3]), torch.tensor([0.75, 0.25]), torch.tensor([0, 2]), 6)
    mixed = whole(arithmetic([topk, drawn], torch.tensor([0.5, 0.5])))
    torch.testing.assert_close(mixed, torch.tensor([[0, 0.15, 0, 0.375, 0, 0.375, 0.1]]).double(), rtol=1e-6, atol=1e-7)


@FEW
@given(SEEDS, st.integers(1, 3))
def test_the_geometric_mean_of_dense_labels_is_exact(seed, teachers):
    labels, weights = [dense_of(seed + number) for number in range(teachers)], weights_of(seed, teachers)
    mixed = geometric(labels, weights)
    logs = sum(float(w) * label.log_probs.double() for w, label in zip(weights, labels, strict=True))
    assert isinstance(mixed, DenseLabels)
    torch.testing.assert_close(mixed.log_probs.double(), logs.log_softmax(1), rtol=1e-5, atol=1e-5)


@FEW
@given(SEEDS, st.integers(1, 11), st.integers(1, 11))
def test_the_geometric_mean_of_topk_labels_keeps_odds_and_the_tail_from_below(seed, first, second):
    teachers, weights = [dense_of(seed), dense_of(seed + 1)], weights_of(seed, 2)
    labels = [topk_of(label, k) for label, k in zip(teachers, (first, second), strict=True)]
    mixed, exact = geometric(labels, weights), whole(geometric(teachers, weights))[:, :-1]
    assert isinstance(mixed, TopKLabels)
    is_distribution(mixed)
    for row in range(4):
        shared = set(labels[0].ids[row].tolist()) & set(labels[1].ids[row].tolist())
        ids = mixed.ids[row][mixed.ids[row] >= 0]
        assert set(ids.tolist()) == shared
        ours = mixed.log_probs[row][mixed.ids[row] >= 0].double()
        if len(ids):
            apart = ours - exact[row, ids].log()
            torch.testing.assert_close(apart, apart[:1].expand(len(ids)), rtol=1e-4, atol=1e-4)
        rest = 1 - exact[row, ids].sum()
        assert float(mixed.tail_log_prob[row].double().exp()) >= float(rest) - 1e-5


def test_a_teacher_without_share_says_nothing():
    labels = [DenseLabels(torch.tensor([[0.5, 0.5, 0.0]]).log()), DenseLabels(torch.tensor([[0.0, 0.0, 1.0]]).log())]
    for rule in (arithmetic, geometric):
        mixed = whole(rule(labels, torch.tensor([1.0, 0.0])))
        torch.testing.assert_close(mixed, torch.tensor([[0.5, 0.5, 0.0, 0.0]]).double(), rtol=1e-6, atol=0)


def test_a_geometric_mean_of_nothing_is_refused():
    labels = [DenseLabels(torch.tensor([[1.0, 0.0]]).log()), DenseLabels(torch.tensor([[0.0, 1.0]]).log())]
    with pytest.raises(LabelError, match="every teacher gives mass, label 0"):
        geometric(labels, torch.tensor([0.5, 0.5]))


@FEW
@given(SEEDS)
def test_selection_takes_one_label_as_it_is(seed):
    labels = [dense_of(seed), dense_of(seed + 1), dense_of(seed + 2)]
    targets = torch.arange(4)
    probs = torch.stack([whole(label)[:, :-1] for label in labels])
    for which, wanted in (
        (min_ce(target_log_probs(labels, targets)), probs[:, torch.arange(4), targets].argmax(0)),
        (max_confidence(labels), probs.amax(2).argmax(0)),
    ):
        assert torch.equal(which, wanted)
        taken = choose(labels, which, 9)
        torch.testing.assert_close(whole(taken)[:, :-1], probs[which, torch.arange(4)], rtol=1e-6, atol=1e-7)


@FEW
@given(SEEDS, st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_labels_of_all_forms_are_chosen_from(seed, which):
    labels: list[SoftLabels] = [drawn_of(seed), topk_of(dense_of(seed + 1), 3), topk_of(dense_of(seed + 2), 5)]
    taken = choose(labels, torch.tensor(which), 9)
    assert isinstance(taken, TopKLabels)
    wanted = torch.stack([whole(labels[number])[row] for row, number in enumerate(which)])
    torch.testing.assert_close(whole(taken), wanted, rtol=1e-5, atol=1e-6)


def test_equal_teachers_give_the_first_ones_label():
    same = [dense_of(3), dense_of(3)]
    assert max_confidence(same).tolist() == min_ce(torch.zeros(2, 4)).tolist() == [0, 0, 0, 0]


@FEW
@given(SEEDS)
def test_shares_by_entropy_are_inverse_perplexities(seed):
    labels, weights = [dense_of(seed), dense_of(seed + 1)], weights_of(seed, 2)
    masses = torch.stack([whole(label)[:, :-1] for label in labels])
    perplexity = torch.special.entr(masses).sum(2).exp()
    wanted = weights[:, None] / perplexity
    torch.testing.assert_close(entropy_shares(labels, weights), wanted / wanted.sum(0), rtol=1e-5, atol=1e-6)
    whole_topk = [topk_of(label, 11) for label in labels]
    torch.testing.assert_close(entropy_shares(whole_topk, weights), wanted / wanted.sum(0), rtol=1e-5, atol=1e-6)


@FEW
@given(SEEDS, st.booleans())
def test_shares_by_agreement_follow_their_definition(seed, in_topk):
    dense, weights = [dense_of(seed + number) for number in range(3)], weights_of(seed, 3)
    labels: list[SoftLabels] = [topk_of(label, 11) if in_topk else label for label in dense]
    masses = torch.stack([whole(label)[:, :-1] for label in dense])
    wanted = torch.empty(3, 4).double()
    for number in range(3):
        others = [other for other in range(3) if other != number]
        mean = (weights[others][:, None, None] * masses[others]).sum(0) / weights[others].sum()
        wanted[number] = weights[number] * torch.minimum(masses[number], mean).sum(1)
    torch.testing.assert_close(agreement_shares(labels, weights), wanted / wanted.sum(0), rtol=1e-4, atol=1e-5)


def test_teachers_that_never_agree_keep_their_weights():
    labels = [DenseLabels(torch.tensor([[1.0, 0.0]]).log()), DenseLabels(torch.tensor([[0.0, 1.0]]).log())]
    assert agreement_shares(labels, torch.tensor([0.25, 0.75])).tolist() == [[0.25], [0.75]]


def test_random_teachers_come_in_proportion_and_are_a_function_of_seed_epoch_and_key():
    keys = np.random.default_rng(0).integers(0, 2**63, (20_000, 2)).astype(np.uint64)
    zeros, ones = np.zeros(len(keys), np.int64), np.ones(len(keys), np.int64)
    first = random_teacher(keys, [0.2, 0.5, 0.3], 7, zeros)
    shares = np.bincount(first, minlength=3) / len(keys)
    assert np.abs(shares - [0.2, 0.5, 0.3]).max() < 0.02
    assert (random_teacher(keys[::-1], [0.2, 0.5, 0.3], 7, zeros)[::-1] == first).all()
    for other in (random_teacher(keys, [0.2, 0.5, 0.3], 8, zeros), random_teacher(keys, [0.2, 0.5, 0.3], 7, ones)):
        same = (other == first).mean()
        assert abs(same - (0.04 + 0.25 + 0.09)) < 0.02, "independent choices"


@pytest.mark.parametrize("rule", [geometric, entropy_shares, agreement_shares])
def test_rules_that_need_probabilities_refuse_draws(rule):
    with pytest.raises(LabelError, match="draws"):
        rule([dense_of(0), drawn_of(0)], torch.tensor([0.5, 0.5]))


def test_selections_refuse_what_labels_do_not_know():
    with pytest.raises(LabelError, match="chance"):
        max_confidence([dense_of(0), drawn_of(0)])
    with pytest.raises(LabelError, match="hard label"):
        target_log_probs([dense_of(0), topk_of(dense_of(1), 3)], torch.zeros(4, dtype=torch.int64))


def test_labels_that_do_not_belong_together_are_refused():
    weights = torch.tensor([0.5, 0.5])
    with pytest.raises(LabelError, match="same positions and classes"):
        arithmetic([dense_of(0), dense_of(0, classes=12)], weights)
    with pytest.raises(LabelError, match="same positions and classes"):
        arithmetic([dense_of(0), dense_of(0, rows=3)], weights)
    with pytest.raises(LabelError, match="features"):
        arithmetic([dense_of(0), FeatureLabels(torch.zeros(4, 2), (("a", 2),))], weights)
    with pytest.raises(LabelError, match="got none"):
        arithmetic([], weights)
    with pytest.raises(LabelError, match="cannot be held"):
        in_form(topk_of(dense_of(0), 2), "weights", 2)


def test_forms_hold_what_they_are_given():
    assert common_form(["dense", "weights", "topk"]) == "topk"
    assert common_form(["dense", "weights"]) == "weights"
    assert common_form(["dense"]) == "dense"
    dense, drawn = dense_of(0), drawn_of(1)
    joined = whole(side_by_side([dense, drawn], 9, torch.tensor([7, 0])))
    torch.testing.assert_close(joined, torch.stack([whole(drawn)[3], whole(dense)[0]]), rtol=1e-5, atol=1e-6)


@FEW
@given(SEEDS)
def test_padding_classes_are_cut_and_the_rest_sums_to_one(seed):
    labels: list[SoftLabels] = [dense_of(seed), topk_of(dense_of(seed), 4), drawn_of(seed, draws=40)]
    for label in labels:
        cut = cut_classes(label, 9)
        assert cut.num_classes == 9
        is_distribution(cut)
        before = torch.cat([whole(label)[:, :9], whole(label)[:, -1:]], 1)
        torch.testing.assert_close(whole(cut), before / before.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
        assert cut_classes(cut, 9) is cut


def test_a_label_of_padding_alone_is_refused():
    only = SparseLabels(torch.tensor([4]), torch.tensor([1.0]), torch.tensor([0, 1]), 5)
    for label in (only, DenseLabels(torch.tensor([[-math.inf, 0.0]]))):
        with pytest.raises(LabelError, match="padding"):
            cut_classes(label, 1)


def test_no_labels_are_mixed_too():
    """A rank without work."""
    none = [part.index(slice(0, 0)) for part in (dense_of(0), topk_of(dense_of(1), 3), drawn_of(2))]
    weights = torch.tensor([0.5, 0.5])
    for pair in ((0, 0), (0, 1), (1, 1), (0, 2), (2, 2), (1, 2)):
        labels = [none[number] for number in pair]
        assert arithmetic(labels, weights).num_labels == 0
        assert choose(labels, torch.zeros(0, dtype=torch.int64), 3).num_labels == 0
        if 2 not in pair:
            assert geometric(labels, weights).num_labels == 0


def test_half_precision_stores_mix_within_their_rounding():
    codec = DenseCodec(11)
    labels = [round_trip(codec, logits_of(4, 11, seed)) for seed in (0, 1)]
    mixed = whole(arithmetic(labels, torch.tensor([0.5, 0.5])))[:, :-1]
    wanted = (logits_of(4, 11, 0).double().softmax(1) + logits_of(4, 11, 1).double().softmax(1)) / 2
    torch.testing.assert_close(mixed, wanted, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_wide_labels_are_mixed_a_few_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [dense_of(seed, rows) for seed in range(3)]
    beside = [*labels[:2], topk_of(labels[2], 4)]
    weights = torch.tensor([0.2, 0.5, 0.3])

    def made() -> list[torch.Tensor]:
        mean = geometric(labels, weights)
        assert isinstance(mean, DenseLabels)
        shares = [share(given, weights) for share in (entropy_shares, agreement_shares) for given in (labels, beside)]
        return [mean.log_probs, *shares]

    wanted, asked = made(), []
    monkeypatch.setattr(cells, "row_chunks", lambda count, width: asked.append(width) or row_chunks(count, width, 1))
    for found, one in zip(made(), wanted, strict=True):
        torch.testing.assert_close(found, one, rtol=0, atol=0)
    assert {11, 33} <= set(asked)
