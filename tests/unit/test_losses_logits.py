"""Losses of logits beside loops in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.losses.numerics import wide
from kdcore.losses.response.class_wise import class_wise, partners
from kdcore.losses.response.conditional import conditional_targets
from kdcore.losses.response.correlation import correlation
from kdcore.losses.response.curriculum import ascent_rate, softened
from kdcore.losses.response.decoupled import decoupled
from kdcore.losses.response.detection import bounded_regression, weighted_class_response
from kdcore.losses.response.directions import directions
from kdcore.losses.response.feature_norm import normed
from kdcore.losses.response.heatmaps import heatmaps
from kdcore.losses.response.logit_regression import logit_regression
from kdcore.losses.response.logits import others, sample_cross_entropy, sample_kl, standardised
from kdcore.losses.response.multi_level import class_level, pair_level
from kdcore.losses.response.normalised import normalised
from kdcore.losses.response.refined import masked_kl, sure_kl
from kdcore.losses.response.transformed_teacher import transformed_teacher
from kdcore.losses.response.virtual_teacher import virtual_teacher
from kdcore.losses.response.weighted_soft_labels import sample_weights, weighted_soft_labels

Rows = list[list[float]]
SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(0, 999))


def logits(batch: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(batch, classes, dtype=torch.float64, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(classes, (batch,), generator=generator)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    shares = [math.exp(value / temperature) for value in row]
    return [share / sum(shares) for share in shares]


def kl(t: list[float], p: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(t, p, strict=True))


def without(row: list[float], place: int) -> list[float]:
    return row[:place] + row[place + 1 :]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_dkd(s: list[float], t: list[float], y: int) -> float:
    p, q = softmax(s, 4.0), softmax(t, 4.0)
    target = kl([q[y], 1 - q[y]], [p[y], 1 - p[y]])
    return 16.0 * (0.7 * target + 8.0 * kl(softmax(without(t, y), 4.0), softmax(without(s, y), 4.0)))


def by_rld(s: list[float], t: list[float], y: int) -> float:
    q, p = max(softmax(t)), softmax(s)[y]
    less = [place for place in range(len(t)) if t[place] < t[y]]
    rest = [softmax([row[place] for place in less], 4.0) for row in (t, s)]
    return 0.7 * kl([q, 1 - q], [p, 1 - p]) + 16.0 * 8.0 * kl(*rest)


def by_nkd(s: list[float], t: list[float], y: int) -> float:
    rest = zip(softmax(without(t, y), 2.0), softmax(without(s, y), 2.0), strict=True)
    return -softmax(t)[y] * math.log(softmax(s)[y]) - 1.5 * 4.0 * sum(a * math.log(b) for a, b in rest)


def by_wsld(s: list[float], t: list[float], y: int) -> float:
    weight = 1 - math.exp(math.log(softmax(s)[y]) / -(math.log(softmax(t)[y]) - 1e-7))
    return 4.0 * weight * kl(softmax(t, 2.0), softmax(s, 2.0))


def by_wttm(s: list[float], t: list[float], y: int) -> float:
    powers = [share**0.3 for share in softmax(t)]
    return sum(powers) * kl([power / sum(powers) for power in powers], softmax(s))


def by_virtual_teacher(s: list[float], t: list[float], y: int) -> float:
    made = [0.9 if place == y else 0.1 / (len(s) - 1) for place in range(len(s))]
    return kl(softmax(made, 20.0), softmax(s))


def by_conditional(s: list[float], t: list[float], y: int) -> float:
    right = t[y] == max(t)
    return -sum(
        (a if right else float(c == y)) * math.log(b)
        for c, (a, b) in enumerate(zip(softmax(t), softmax(s), strict=True))
    )


SAMPLES: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], Callable[[list[float], list[float], int], float]]]
SAMPLES = {
    "dkd": (lambda s, t, y: decoupled(s, t, y, 0.7, 8.0, 4.0), by_dkd),
    "rld": (
        lambda s, t, y: (0.7 * sure_kl(s, t, y) + 128.0 * masked_kl(s / 4.0, t / 4.0, y)).mean(),
        by_rld,
    ),
    "nkd": (lambda s, t, y: normalised(s, t, y, 1.5, 2.0), by_nkd),
    "wsld": (lambda s, t, y: weighted_soft_labels(s, t, y, 2.0), by_wsld),
    "ttm": (lambda s, t, y: transformed_teacher(s, t, 0.3, True), by_wttm),
    "virtual_teacher": (lambda s, t, y: virtual_teacher(s, y, 0.9, 20.0), by_virtual_teacher),
    "conditional": (lambda s, t, y: sample_cross_entropy(s, conditional_targets(t, y)).mean(), by_conditional),
    "logits": (
        lambda s, t, y: logit_regression(s, t),
        lambda s, t, y: sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / 2,
    ),
    "ctkd": (
        lambda s, t, y: softened(s, t, torch.tensor(5.0, dtype=torch.float64)),
        lambda s, t, y: 25.0 * kl(softmax(t, 5.0), softmax(s, 5.0)),
    ),
}
"""Losses that are a mean over samples, and the loss of one sample."""


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=10, deadline=None)
@given(shape=SHAPES)
def test_the_loss_is_the_mean_of_its_samples(name, shape):
    student, teacher, targets = logits(*shape)
    ours, by_sample = SAMPLES[name]
    rows = zip(student.tolist(), teacher.tolist(), targets.tolist(), strict=True)
    assert float(ours(student, teacher, targets)) == pytest.approx(mean([by_sample(*row) for row in rows]), rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - {"wsld"}))  # whose weights are constants for the gradient
def test_gradients_are_those_of_the_value(name):
    student, teacher, targets = logits(3, 4, 7)
    assert torch.autograd.gradcheck(lambda z: SAMPLES[name][0](z, teacher, targets), student.requires_grad_())


@pytest.mark.parametrize("name", ["dkd", "wsld", "logits", "ctkd"])
def test_a_student_that_is_the_teacher_has_no_loss(name):
    student, _, targets = logits(3, 4, 7)
    assert float(SAMPLES[name][0](student, student, targets)) == pytest.approx(0.0, abs=1e-12)


def test_dkd_with_the_weights_of_kl_is_kl():
    """Eq. 6 of the paper: KL = TCKD + (1 - p_y) NCKD, with the teacher's p_y."""
    student, teacher, targets = logits(1, 5, 3)
    rest = 1 - float(teacher.softmax(1)[0, targets[0]])
    assert float(decoupled(student, teacher, targets, 1.0, rest, 1.0)) == pytest.approx(
        float(sample_kl(student, teacher)), rel=1e-9
    )


def test_the_weights_of_wsld_are_constants_for_the_gradient():
    student, teacher, targets = logits(3, 4, 7)
    weights = sample_weights(student, teacher, targets)
    (gradient,) = torch.autograd.grad(weighted_soft_labels(student.requires_grad_(), teacher, targets, 2.0), student)
    wanted = 2 * weights[:, None] * ((student / 2).softmax(1) - (teacher / 2).softmax(1)) / 3
    torch.testing.assert_close(gradient, wanted)


def test_dkd_of_a_sure_student_is_finite():
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    loss = decoupled(student, torch.zeros(1, 3), torch.tensor([0]), 1.0, 8.0, 1.0)
    loss.backward()
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert float(loss.detach()) > 100


@settings(max_examples=10, deadline=None)
@given(shape=SHAPES)
def test_others_are_all_classes_but_the_target(shape):
    student, _, targets = logits(*shape)
    rows = zip(student.tolist(), targets.tolist(), strict=True)
    assert others(student, targets).tolist() == [without(row, y) for row, y in rows]


def transposed(rows: Rows) -> Rows:
    return [list(column) for column in zip(*rows, strict=True)]


def pearson_of(one: list[float], other: list[float]) -> float:
    a, b = ([value - mean(row) for value in row] for row in (one, other))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths


@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(st.integers(2, 4), st.integers(2, 5), st.integers(0, 999)))
def test_dist_is_of_correlations_of_rows_and_columns(shape):
    student, teacher, _ = logits(*shape)
    p, t = ([softmax(row, 2.0) for row in given.tolist()] for given in (student, teacher))
    rows = mean([pearson_of(a, b) for a, b in zip(p, t, strict=True)])
    columns = mean([pearson_of(a, b) for a, b in zip(transposed(p), transposed(t), strict=True)])
    wanted = 4.0 * (0.5 * (1 - rows) + 2.0 * (1 - columns))
    assert float(correlation(student, teacher, 0.5, 2.0, 2.0)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(shape=SHAPES)
def test_levels_of_pairs_and_classes(shape):
    p, t = (given.softmax(1) for given in logits(*shape)[:2])

    def dot(rows: Rows, a: int, b: int) -> float:
        return sum(x * y for x, y in zip(rows[a], rows[b], strict=True))

    def distance(ours: Rows, theirs: Rows) -> float:
        places = range(len(ours))
        return sum((dot(ours, a, b) - dot(theirs, a, b)) ** 2 for a in places for b in places) / len(ours)

    assert float(pair_level(p, t)) == pytest.approx(distance(p.tolist(), t.tolist()), rel=1e-9, abs=1e-15)
    assert float(class_level(p, t)) == pytest.approx(distance(p.T.tolist(), t.T.tolist()), rel=1e-9, abs=1e-15)


@settings(max_examples=10, deadline=None)
@given(shape=st.tuples(st.integers(2, 4), st.integers(2, 5), st.integers(0, 999)))
def test_skd_is_a_mahalanobis_distance(shape):
    student, teacher, _ = logits(*shape)

    def cosines(given: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(given[:, None], given[None], dim=2)

    difference = cosines(student) - cosines(teacher)
    inverse = torch.linalg.inv(torch.cov(difference.T) + 0.1 * torch.eye(shape[0], dtype=torch.float64))
    wanted = mean([math.sqrt(float(row @ inverse @ row)) for row in difference])
    assert float(directions(student, teacher, 0.1)) == pytest.approx(wanted, rel=1e-9)
    assert float(directions(student, 3 * student, 0.1)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: correlation(s, t, 1.0, 1.0, 2.0),
        lambda s, t: directions(s, t, 0.1),
        lambda s, t: pair_level(s.softmax(1), t.softmax(1)) + class_level(s.softmax(1), t.softmax(1)),
        lambda s, t: standardised(s).pow(3).sum(),
        lambda s, t: normed(s, t, 2.0, False).pow(3).sum(),
    ],
)
def test_gradients_of_losses_of_a_batch(loss):
    student, teacher, _ = logits(3, 4, 7)
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher), student.requires_grad_())


@settings(max_examples=10, deadline=None)
@given(shape=SHAPES)
def test_standardised_logits_have_mean_0_and_deviation_1(shape):
    student, _, _ = logits(*shape)
    centred = student - student.mean(1, keepdim=True)
    torch.testing.assert_close(standardised(student), centred / (student.std(1, keepdim=True) + 1e-7))
    torch.testing.assert_close(standardised(3 * student + 2), standardised(student), rtol=1e-4, atol=1e-4)


def test_a_partner_is_the_next_of_the_same_class():
    targets = torch.tensor([0, 1, 0, 2, 0, 1])
    assert partners(targets).tolist() == [2, 5, 4, 3, 0, 1]


def test_class_wise_is_the_kl_to_the_partner():
    student, _, _ = logits(3, 4, 1)
    targets = torch.tensor([2, 1, 2])
    rows = student.tolist()
    wanted = 16.0 * mean(
        [kl(softmax(rows[2], 4.0), softmax(rows[0], 4.0)), 0.0, kl(softmax(rows[0], 4.0), softmax(rows[2], 4.0))]
    )
    assert float(class_wise(student, targets, 4.0)) == pytest.approx(wanted, rel=1e-9)
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(class_wise(student, targets, 4.0), student)
    # The partner is fixed: the gradient of a sample is 4 (p - p') / 3.
    torch.testing.assert_close(gradient, 4 / 3 * ((student / 4).softmax(1) - (student / 4).softmax(1)[[2, 1, 0]]))


def test_ctkd_begins_slowly_and_stays_at_full_rate():
    assert [round(ascent_rate(progress, 0.5), 6) for progress in (0.0, 0.25, 0.5, 0.9)] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize(("shorten_only", "temperatures"), [(True, [2.5, 1.0]), (False, [2.5, 0.5])])
def test_the_temperature_is_the_length_of_the_features(shorten_only, temperatures):
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    found = normed(torch.ones(2, 3), features, 2.0, shorten_only)
    torch.testing.assert_close(found, 1 / torch.tensor(temperatures)[:, None].expand(2, 3))


def test_heatmaps_are_summed_over_pixels():
    student, teacher = torch.zeros(2, 3, 4, 5), torch.full((2, 3, 4, 5), 2.0)
    assert float(heatmaps(student, teacher)) == 4.0 * 20


def test_boxes_beyond_the_bound_are_left_alone():
    boxes = torch.zeros(3, 4)
    student = torch.tensor([[2.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    teacher = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0], [1.2, 0, 0, 0]])
    assert float(bounded_regression(student, teacher, boxes, margin=0.5)) == pytest.approx((4 + 0 + 1) / 3)


def test_classes_of_a_detector_are_weighted():
    student, teacher, _ = logits(2, 3, 0)
    weights = torch.tensor([1.5, 1.0, 1.0], dtype=torch.float64)
    wanted = mean(
        [
            -sum(w * a * math.log(b) for w, a, b in zip(weights.tolist(), softmax(t), softmax(s), strict=True))
            for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
        ]
    )
    assert float(weighted_class_response(student, teacher, weights)) == pytest.approx(wanted, rel=1e-9)


def test_sums_are_of_float32_at_least():
    assert [wide(torch.zeros(1, dtype=kind)).dtype for kind in (torch.bfloat16, torch.float16, torch.float32)] == [
        torch.float32
    ] * 3
    assert wide(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
