"""Losses of the batch's geometry beside loops over samples in float64, and beside torchdistill's."""

import math

import pytest
import torch
from torch.nn.functional import smooth_l1_loss
from torchdistill.losses import mid_level

from kdcore.losses.relation.channel_correlation import channel_correlation
from kdcore.losses.relation.correlation_congruence import congruence, neighbouring_differences, taylor_gaussian
from kdcore.losses.relation.probabilistic import neighbour_probabilities, probabilistic_transfer
from kdcore.losses.relation.relational import angle_loss, distance_loss
from kdcore.losses.relation.similarity_preserving import similarity_preserving
from tests.support.features import normal
from tests.support.method_examples.relation import EXAMPLES
from tests.support.methods import inputs, method
from tests.support.relations import FEATURE, apart, cosine, outputs, pairs, right_slope, shapes_and_seeds

CASES = list(shapes_and_seeds())
RELATIONS = [distance_loss, angle_loss, similarity_preserving, probabilistic_transfer, congruence]
MAPS = normal(0, 3, 4, 2, 3), normal(1, 3, 4, 3, 3)


def huber(a, b):
    return (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5


@pytest.mark.parametrize(("student", "teacher"), CASES)
def test_distances_are_a_loop(student, teacher):
    def relative(vectors):
        far = {(i, j): apart(vectors[i], vectors[j]) for i, j in pairs(len(vectors))}
        positive = [one for one in far.values() if one > 0]
        return {key: one * len(positive) / sum(positive) for key, one in far.items()}

    ours, theirs = relative(student), relative(teacher)
    expected = sum(huber(ours[key], theirs[key]) for key in ours) / len(ours)
    assert float(distance_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("student", "teacher"), CASES)
def test_angles_are_a_loop(student, teacher):
    def at(vectors, i, j, k):
        return 0.0 if j in (i, k) else cosine(vectors[i] - vectors[j], vectors[k] - vectors[j])

    batch = len(student)
    triples = [(i, j, k) for i in range(batch) for j in range(batch) for k in range(batch)]
    expected = sum(huber(at(student, *one), at(teacher, *one)) for one in triples) / len(triples)
    assert float(angle_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("student", "teacher"), CASES)
def test_similarities_are_a_loop(student, teacher):
    def rows(vectors):
        gram = [[float(a @ b) for b in vectors] for a in vectors]
        return [[one / math.hypot(*row) for one in row] for row in gram]

    ours, theirs = rows(student), rows(teacher)
    expected = sum((ours[i][j] - theirs[i][j]) ** 2 for i, j in pairs(len(student))) / len(student) ** 2
    assert float(similarity_preserving(student, teacher)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("student", "teacher"), CASES)
def test_neighbours_are_a_loop(student, teacher):
    def likely(vectors):
        kernel = [[(cosine(a, b) + 1) / 2 for b in vectors] for a in vectors]
        return [[one / sum(row) for one in row] for row in kernel]

    ours, theirs = likely(student), likely(teacher)
    divergence = [theirs[i][j] * math.log((theirs[i][j] + 1e-7) / (ours[i][j] + 1e-7)) for i, j in pairs(len(student))]
    assert float(probabilistic_transfer(student, teacher)) == pytest.approx(
        sum(divergence) / len(student) ** 2, rel=1e-9
    )


@pytest.mark.parametrize(("student", "teacher"), CASES)
def test_congruence_is_a_loop(student, teacher):
    def kernel(a, b):
        return math.exp(-0.8) * sum((0.8 * cosine(a, b)) ** power / math.factorial(power) for power in range(3))

    squares = [(kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for i, j in pairs(len(student))]
    assert float(congruence(student, teacher)) == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_the_series_is_the_gaussian_of_directions():
    vectors = normal(0, 4, 3)
    directions = torch.nn.functional.normalize(vectors)
    gaussian = (-0.4 * torch.cdist(directions, directions).square()).exp()
    torch.testing.assert_close(taylor_gaussian(vectors, 0.4, 8), gaussian, atol=1e-6, rtol=1e-6)


def test_the_short_form_of_congruence_is_a_loop():
    student, teacher = normal(0, 4, 3), normal(1, 4, 3)
    apart = (student - teacher).abs().tolist()
    expected = sum(apart[i][d] * apart[i + 1][d] for i in range(3) for d in range(3)) / 3
    assert float(neighbouring_differences(student, teacher)) == pytest.approx(expected, rel=1e-12)
    assert float(neighbouring_differences(student[:1], teacher[:1])) == 0
    assert right_slope(neighbouring_differences, student, teacher)


@pytest.mark.parametrize("kind", ["random", "constant", "zero"])
def test_the_short_form_compares_embeddings(kind):
    loss_of, given = method("cckd", form="short", dimension=3), inputs(4, kind)
    loss_of(given).backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in loss_of.parameters())
    assert len(list(loss_of.parameters())) == 4


def test_channels_are_a_loop():
    def rows(sample):
        channels = sample.flatten(1)
        gram = [[float(a @ b) for b in channels] for a in channels]
        return [[one / math.hypot(*row) for one in row] for row in gram]

    total = 0.0
    for ours, theirs in zip(*MAPS, strict=True):
        a, b = rows(ours), rows(theirs)
        total += sum((a[i][j] - b[i][j]) ** 2 for i, j in pairs(4)) / (3 * 4)
    assert float(channel_correlation(*MAPS)) == pytest.approx(total, rel=1e-12)
    assert right_slope(channel_correlation, *MAPS)


@pytest.mark.parametrize("loss", RELATIONS)
def test_a_relation_is_of_the_batch_alone(loss):
    student, teacher = CASES[1]
    order = torch.tensor([2, 0, 1])
    turn = torch.linalg.qr(normal(5, student.shape[1], student.shape[1])).Q
    value = loss(student, teacher)
    assert right_slope(loss, student, teacher)
    assert float(value) > 1e-6
    torch.testing.assert_close(loss(student[order], teacher[order]), value)
    torch.testing.assert_close(loss(3 * student @ turn, teacher), value)
    assert float(loss(student, student)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_where_the_origin_lies_is_no_relation(loss):
    student, teacher = CASES[1]
    torch.testing.assert_close(loss(student + 2, teacher), loss(student, teacher))


def test_equal_to_torchdistill():
    student, teacher = (one.float() for one in CASES[2])
    given = outputs(FEATURE, student), outputs(FEATURE, teacher)
    rkd = mid_level.RKDLoss(FEATURE, FEATURE, 25.0, 50.0, "mean")(*given)
    torch.testing.assert_close(25 * distance_loss(student, teacher) + 50 * angle_loss(student, teacher), rkd)
    pkt = mid_level.PKTLoss(FEATURE, "output", FEATURE, "output")(*given)
    torch.testing.assert_close(probabilistic_transfer(student, teacher), pkt, atol=1e-7, rtol=1e-5)


def test_equal_to_torchdistill_but_for_its_reduction():
    student, teacher = (torch.nn.functional.normalize(one) for one in CASES[2])
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    theirs = mid_level.CCKDLoss(FEATURE, FEATURE, kernel, "batchmean")(
        outputs(FEATURE, student), outputs(FEATURE, teacher)
    )
    batch = len(student)
    torch.testing.assert_close(congruence(student, teacher), (theirs * batch**2) ** 2 / batch**2)
    ickd = mid_level.ChSimLoss.batch_loss(*MAPS)
    torch.testing.assert_close(channel_correlation(*MAPS), ickd * len(MAPS[0]))


def test_half_precision_is_computed_in_float32():
    student, teacher = (one.bfloat16() for one in CASES[2])
    for loss in RELATIONS:
        assert loss(student, teacher).dtype == torch.float32
        torch.testing.assert_close(loss(student, teacher), loss(student.float(), teacher.float()))
    assert float(neighbour_probabilities(student).sum(1).sub(1).abs().max()) < 1e-6


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_method_in_bfloat16_takes_features_of_any_type(name):
    loss = method(name).bfloat16()(inputs())
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_the_pieces_of_rkd_are_weighted():
    given = inputs()
    parts = [method("rkd", **weights)(given) for weights in ({"angle_weight": 0}, {"distance_weight": 0})]
    torch.testing.assert_close(method("rkd")(given), parts[0] + parts[1])
    assert smooth_l1_loss(parts[0], torch.zeros(())) > 0
