"""Relations between places of maps, and between nodes of a graph; beside loops in float64."""

import math

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d

from kdcore.errors import ConfigError
from kdcore.losses.relation.local_correlation import local_correlation
from kdcore.losses.relation.local_structure import local_structure, neighbour_log_probabilities
from kdcore.losses.relation.pairwise_affinity import pairwise_affinity
from tests.support.features import normal
from tests.support.methods import method
from tests.support.relations import apart, cosine, right_slope

STUDENT, TEACHER = normal(0, 3, 2, 4, 4), normal(1, 3, 5, 4, 4)


def test_local_correlations_are_a_loop():
    groups = {"image": [], "place": [], "other": []}
    ours, theirs = (adaptive_avg_pool2d(one, 2).flatten(2) for one in (STUDENT, TEACHER))
    for i in range(3):
        for p in range(4):
            for j in range(3):
                for q in range(4):
                    a, b = (cosine(side[i, :, p], side[j, :, q]) for side in (ours, theirs))
                    name = "image" if i == j else "place" if p == q else "other"
                    groups[name].append((a - b) ** 2)
    expected = sum(sum(group) / len(group) for group in groups.values())
    assert float(local_correlation(STUDENT, TEACHER)) == pytest.approx(expected, rel=1e-12)
    assert right_slope(local_correlation, STUDENT, TEACHER)
    assert float(local_correlation(2 * TEACHER, TEACHER)) == pytest.approx(0, abs=1e-20)


def test_affinities_are_a_loop():
    total = 0.0
    ours, theirs = (max_pool2d(one, 2).flatten(2) for one in (STUDENT, TEACHER))
    for sample in range(3):
        for p in range(4):
            for q in range(4):
                a, b = (cosine(side[sample, :, p], side[sample, :, q]) for side in (ours, theirs))
                total += (a - b) ** 2 / 16 / 3
    assert float(pairwise_affinity(STUDENT, TEACHER)) == pytest.approx(total, rel=1e-6)
    assert float(pairwise_affinity(2 * TEACHER, TEACHER)) == pytest.approx(0, abs=1e-12)


def test_a_patch_is_a_share_of_the_map():
    whole = pairwise_affinity(STUDENT, TEACHER, 1.0)
    assert float(whole) == pytest.approx(0, abs=1e-12)  # one place, like itself
    larger = normal(2, 3, 5, 8, 8)
    torch.testing.assert_close(pairwise_affinity(STUDENT, larger), pairwise_affinity(STUDENT, avg_pool2d(larger, 2)))


@pytest.mark.parametrize("name", ["local_correlation", "pairwise_affinity"])
def test_places_are_those_of_maps(name):
    with pytest.raises(ConfigError, match="feature maps"):
        method(name, at="vectors")


# Node 3 has no neighbours, node 4 is the only one of node 0's... and of no other.
EDGES = torch.tensor([[0, 0, 1, 1, 1, 2], [1, 2, 0, 2, 4, 1]])
NODES, TEACHERS = normal(0, 5, 3), normal(1, 5, 2)


def test_local_structure_is_a_loop():
    def structure(nodes, i):
        near = [int(b) for a, b in EDGES.T if a == i]
        kernels = [math.exp(math.exp(-(apart(nodes[i], nodes[j]) ** 2) / 4)) for j in near]
        return [one / sum(kernels) for one in kernels]

    total = 0.0
    for i in (0, 1, 2):
        ours, theirs = structure(NODES, i), structure(TEACHERS, i)
        total += sum(a * math.log(a / b) for a, b in zip(ours, theirs, strict=True)) / 3
    assert float(local_structure(NODES, TEACHERS, EDGES, 2.0)) == pytest.approx(total, rel=1e-12)
    assert right_slope(local_structure, NODES, TEACHERS, EDGES, 2.0)
    assert float(local_structure(NODES, NODES + 1, EDGES, 2.0)) == pytest.approx(0, abs=1e-15)


def test_neighbours_add_up_to_one():
    likely = neighbour_log_probabilities(NODES, EDGES, 2.0).exp()
    sums = torch.zeros(5, dtype=torch.float64).index_add(0, EDGES[0], likely)
    assert sums.tolist() == pytest.approx([1, 1, 1, 0, 0])
    assert local_structure(NODES, TEACHERS, EDGES[:, :0]) == 0
