"""Relations between layers: FSP, singular vectors, IRG, information flow; beside loops in float64."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d
from torchdistill.losses.mid_level import FSPLoss

from kdcore.config.losses.relation import InformationFlowTerm
from kdcore.errors import ConfigError
from kdcore.losses.relation.flow import flow_loss, flow_matrix
from kdcore.losses.relation.information_flow import flow_divergence
from kdcore.losses.relation.instance_graph import edge_loss, movement_loss, vertex_loss
from kdcore.losses.relation.singular import aligned, leading
from kdcore.losses.relation.singular_vectors import singular_vector_loss
from tests.support.features import normal
from tests.support.methods import inputs, method
from tests.support.relations import apart, cosine, pairs, right_slope

# Three layers of both networks, maps [B, C, H, W] with equal channels.
OURS = [normal(0, 3, 2, 4, 4), normal(1, 3, 4, 2, 2), normal(2, 3, 3, 2, 3)]
THEIRS = [normal(3, 3, 2, 4, 6), normal(4, 3, 4, 2, 2), normal(5, 3, 3, 4, 4)]


def sides(layers):
    """Consecutive layers, the larger pooled to the other's size."""
    for first, second in pairwise(layers):
        size = [min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]
        yield adaptive_max_pool2d(first, size), adaptive_max_pool2d(second, size)


def test_the_flow_is_a_loop():
    total = 0.0
    for ours, theirs in zip(sides(OURS), sides(THEIRS), strict=True):
        for sample in range(3):
            for c in range(ours[0].shape[1]):
                for d in range(ours[1].shape[1]):
                    one, other = (float((a[sample, c] * b[sample, d]).mean()) for a, b in (ours, theirs))
                    total += (one - other) ** 2 / 3
    assert float(flow_loss(OURS, THEIRS)) == pytest.approx(total, rel=1e-12)
    assert right_slope(lambda first: flow_loss([first, *OURS[1:]], THEIRS), OURS[0])
    assert float(flow_loss(OURS, OURS)) == 0


def test_the_flow_matrix_is_torchdistills():
    expected = FSPLoss.compute_fsp_matrix(OURS[0], OURS[1])
    torch.testing.assert_close(flow_matrix(OURS[0], OURS[1]), expected)


@pytest.mark.parametrize("name", ["fsp", "singular_vectors"])
def test_channels_are_compared_one_by_one(name):
    with pytest.raises(ConfigError, match=r"`maps` of the student gives .* choose layers"):
        method(name, at=("maps", "maps.wide"))
    with pytest.raises(ConfigError, match="choose layers"):
        method(name, at=("maps.wide", "vectors"))
    with pytest.raises(ValueError, match="at least 2"):
        method(name, at=("maps.wide",))


def reference_vectors(features, count):
    """Right singular vectors of each sample and the values, by numpy, the largest entry positive."""
    matrices = features.flatten(2).mT.numpy()
    found = [np.linalg.svd(one, full_matrices=False) for one in matrices]
    chosen = [v[:count].T for _, _, v in found]
    turned = [v * np.where(v[np.abs(v).argmax(0), range(v.shape[1])] < 0, -1, 1) for v in chosen]
    return np.stack(turned), np.stack([s[:count] for _, s, _ in found])


@pytest.mark.parametrize("features", [normal(0, 2, 3, 4, 4), normal(1, 2, 7, 2, 2)])
def test_leading_vectors_are_those_of_numpy(features):
    vectors, values = leading(features, 3)
    expected = reference_vectors(features, 3)
    torch.testing.assert_close(vectors, torch.tensor(expected[0]), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(values, torch.tensor(expected[1]), atol=1e-9, rtol=1e-9)
    assert right_slope(lambda one: leading(one, 2)[0], features)


def test_slopes_of_vectors_are_finite_where_there_are_none():
    equal = torch.eye(3, dtype=torch.float64).reshape(1, 3, 3, 1).repeat(1, 1, 1, 3)
    for features in (torch.zeros(1, 3, 2, 2), torch.ones(2, 3, 4, 4), torch.ones(2, 6, 1, 2), equal, 1e-20 * equal):
        leaf = features.clone().requires_grad_()
        (leading(leaf, 2)[0] * torch.arange(1.0, 3.0)).sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_the_nearest_vector_is_taken_and_turned():
    student = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    teacher = torch.tensor([[[0.1], [-0.9]]])
    assert aligned(student, teacher).tolist() == [[[0.0], [-1.0]]]


@pytest.mark.parametrize("count", [1, 2])
def test_singular_vectors_are_a_loop(count):
    directions = []
    for ours, theirs in zip(OURS, THEIRS, strict=True):
        v_t, values = reference_vectors(theirs, count)
        v_s, _ = reference_vectors(ours, v_t.shape[2] + 3)
        for sample in range(3):
            for k in range(v_t.shape[2]):
                cosines = v_s[sample].T @ v_t[sample, :, k]
                best = np.abs(cosines).argmax()
                share = values[sample, k] / np.linalg.norm(values[sample])
                directions.append((v_s[sample, :, best] * np.sign(cosines[best]) * share, v_t[sample, :, k] * share))
    layers = [directions[number * 3 * count : (number + 1) * 3 * count] for number in range(3)]
    total = 0.0
    for first, second in pairwise(layers):
        for (s_a, t_a), (s_b, t_b) in zip(first, second, strict=True):
            kernels = [np.exp(-((a[:, None] - b[None]) ** 2) / 8) for a, b in ((s_a, s_b), (t_a, t_b))]
            total += float(((kernels[0] - kernels[1]) ** 2).sum()) / 3
    assert float(singular_vector_loss(OURS, THEIRS, count)) == pytest.approx(total, rel=1e-9)
    assert right_slope(lambda first: singular_vector_loss([first, *OURS[1:]], THEIRS, count), OURS[0])
    assert float(singular_vector_loss(OURS, OURS, count)) == pytest.approx(0, abs=1e-20)


def test_edges_are_a_loop():
    total = 0.0
    for ours, theirs in zip(OURS, THEIRS, strict=True):
        squares = [[apart(side[i].flatten(), side[j].flatten()) ** 2 for i, j in pairs(3)] for side in (ours, theirs)]
        total += sum((a / max(squares[0]) - b / max(squares[1])) ** 2 for a, b in zip(*squares, strict=True)) / 9 / 3
    assert float(edge_loss(OURS, THEIRS)) == pytest.approx(total, rel=1e-12)
    torch.testing.assert_close(edge_loss([3 * one + 1 for one in OURS], THEIRS), edge_loss(OURS, THEIRS))


def test_movements_are_a_loop():
    def movements(first, second):
        size = [min(a, b) for a, b in zip(first.shape[2:], second.shape[2:], strict=True)]
        first, second = adaptive_avg_pool2d(first, size), adaptive_avg_pool2d(second, size)
        halves = (second[:, 0::2] + second[:, 1::2]) / 2
        squares = [float(((a - b) ** 2).sum()) for a, b in zip(first, halves, strict=True)]
        return [one / max(squares) for one in squares]

    ours, theirs = movements(*OURS[:2]), movements(*THEIRS[:2])
    expected = sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / 3
    assert float(movement_loss(OURS[:2], THEIRS[:2])) == pytest.approx(expected, rel=1e-12)


def test_the_largest_edge_counts_as_a_constant():
    """As in the authors' backward pass: with it every slope of two samples would be zero."""
    student = normal(0, 2, 3).requires_grad_()
    edge_loss([student], [torch.zeros(2, 3, dtype=torch.float64)]).backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0


def test_vertices_know_no_constant():
    student, teacher = normal(0, 3, 4), normal(1, 3, 4)
    ours, theirs = (one - one.mean(1, keepdim=True) for one in (student, teacher))
    expected = float(((ours - theirs) ** 2).sum()) / 12
    assert float(vertex_loss(student, teacher)) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(vertex_loss(student, teacher.log_softmax(1)), vertex_loss(student, teacher))


def test_the_parts_of_a_graph_are_weighted():
    given = inputs()
    off = {"vertex_weight": 0, "edge_weight": 0, "movement_weight": 0}
    parts = [method("irg", **{**off, name: 2.0})(given) for name in off]
    assert all(one > 0 for one in parts)
    whole = method("irg", **dict.fromkeys(off, 2.0))(given)
    torch.testing.assert_close(whole, parts[0] + parts[1] + parts[2])


def test_the_divergence_of_flows_is_a_loop():
    student, teacher = normal(0, 4, 3), normal(1, 4, 5)

    def likely(vectors, kernel):
        rows = [[kernel(a, b) for b in vectors] for a in vectors]
        return [[one / sum(row) for one in row] for row in rows]

    total = 0.0
    for kernel in (lambda a, b: (cosine(a, b) + 1) / 2, lambda a, b: 1 / (1 + apart(a, b))):
        ours, theirs = likely(student, kernel), likely(teacher, kernel)
        for i, j in pairs(4):
            a, b = ours[i][j], theirs[i][j]
            total += (b - a) * (math.log(b + 1e-6) - math.log(a + 1e-6)) / 16
    assert float(flow_divergence(student, teacher)) == pytest.approx(total, rel=1e-9)
    assert right_slope(flow_divergence, student, teacher)
    assert float(flow_divergence(student, student)) == 0
    torch.testing.assert_close(flow_divergence(student, teacher), flow_divergence(teacher, student))


def test_earlier_layers_weigh_less_and_less():
    flow = method("information_flow", initial_weight=10.0, decay=0.5, decays=4)
    assert isinstance(flow.term, InformationFlowTerm)
    assert [flow.weight_at(progress) for progress in (0.0, 0.24, 0.25, 0.99)] == [10.0, 10.0, 5.0, 1.25]
    given = inputs()
    parts = [flow_divergence(given.student[path], given.teacher[path]) for path in ("maps", "vectors")]
    torch.testing.assert_close(flow(given), 2.5 * parts[0] + parts[1])
