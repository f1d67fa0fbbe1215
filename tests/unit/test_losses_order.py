"""Which samples are nearer, and in which order: beside loops in float64."""

import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from kdcore.losses.relation.dark_rank import hard_rank, order_likelihood, soft_rank
from kdcore.losses.relation.learning_metrics import absolute_loss, relative_loss
from kdcore.losses.relation.locality import locality_loss, locality_weights
from kdcore.losses.relation.ranking import ranking_loss
from kdcore.losses.relation.triplet_order import triplet_order
from tests.support.features import normal
from tests.support.methods import inputs, method
from tests.support.relations import apart, pairs, right_slope

STUDENT, TEACHER, OTHER = normal(0, 5, 3), normal(1, 5, 4), normal(2, 5, 2)


def farther(vectors, i, j, k):
    return apart(vectors[i], vectors[k]) ** 2 - apart(vectors[i], vectors[j]) ** 2


@pytest.mark.parametrize("teachers", [[TEACHER], [TEACHER, OTHER, STUDENT], [TEACHER, OTHER]])
def test_triplets_are_a_loop_over_votes(teachers):
    hinges = []
    for i, j, k in permutations(range(5), 3):
        vote = sum(math.copysign(1, farther(teacher, i, j, k)) for teacher in teachers)
        if vote > 0:
            hinges.append(max(0.0, 0.7 - farther(STUDENT, i, j, k)))
    assert float(triplet_order(STUDENT, teachers, 0.7)) == pytest.approx(sum(hinges) / len(hinges), rel=1e-12)
    assert right_slope(triplet_order, STUDENT, teachers, 0.7)


def test_a_wide_enough_order_costs_nothing():
    line = torch.tensor([[0.0], [10.0], [30.0], [70.0]])
    assert triplet_order(line, [line], 1.0) == 0
    assert triplet_order(line, [torch.ones(4, 2)], 1.0) == 0


def likelihood(scores):
    return math.prod(math.exp(one) / sum(math.exp(other) for other in scores[n:]) for n, one in enumerate(scores))


def test_orders_add_up_to_one():
    scores = [0.3, -1.0, 2.0]
    orders = torch.tensor(list(permutations(scores)))
    likelihoods = order_likelihood(orders).exp()
    assert float(likelihoods.sum()) == pytest.approx(1, abs=1e-6)
    assert likelihoods.tolist() == pytest.approx([likelihood(order) for order in permutations(scores)], rel=1e-5)


def ranked(vectors, query, others):
    directions = torch.nn.functional.normalize(vectors)
    return [-2.0 * apart(directions[query], directions[other]) ** 1.5 for other in others]


def nearest(query, count):
    others = [other for other in range(5) if other != query]
    return sorted(others, key=lambda other: apart(*torch.nn.functional.normalize(TEACHER)[[query, other]]))[:count]


@pytest.mark.parametrize("candidates", [2, 3, 9])
def test_the_hard_rank_is_a_loop(candidates):
    total = sum(-math.log(likelihood(ranked(STUDENT, query, nearest(query, candidates)))) for query in range(5)) / 5
    assert float(hard_rank(STUDENT, TEACHER, candidates, 2.0, 1.5)) == pytest.approx(total, rel=1e-12)
    assert right_slope(hard_rank, STUDENT, TEACHER, candidates, 2.0, 1.5)


@pytest.mark.parametrize("candidates", [2, 3])
def test_the_soft_rank_is_a_loop(candidates):
    total = 0.0
    for query in range(5):
        for order in permutations(nearest(query, candidates)):
            ours, theirs = (likelihood(ranked(side, query, order)) for side in (STUDENT, TEACHER))
            total += theirs * math.log(theirs / ours) / 5
    assert float(soft_rank(STUDENT, TEACHER, candidates, 2.0, 1.5)) == pytest.approx(total, rel=1e-9)
    assert right_slope(soft_rank, STUDENT, TEACHER, candidates, 2.0, 1.5)
    assert float(soft_rank(TEACHER, TEACHER, candidates)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("kind", "batch"), [("random", 1), ("random", 2), ("constant", 3), ("zero", 3)])
def test_the_soft_rank_of_samples_without_an_order(kind, batch):
    given = inputs(batch, kind)
    loss = method("dark_rank", form="soft")(given)
    loss.backward()
    slope = given.student["vectors"].grad
    assert loss >= 0
    assert slope is not None
    assert torch.isfinite(slope).all()


def test_all_orders_of_many_are_refused():
    with pytest.raises(ValueError, match="set `candidates` to 6 or less"):
        method("dark_rank", form="soft", candidates=7)


def test_metrics_are_loops():
    other = normal(3, 5, 3)
    absolute = sum(apart(a, b) for a, b in zip(STUDENT, other, strict=True)) / 5
    assert float(absolute_loss(STUDENT, other)) == pytest.approx(absolute, rel=1e-12)
    squares = sum((apart(*STUDENT[[i, j]]) - apart(*TEACHER[[i, j]])) ** 2 for i, j in pairs(5))
    assert float(relative_loss(STUDENT, TEACHER)) == pytest.approx(math.sqrt(squares), rel=1e-12)
    assert right_slope(absolute_loss, STUDENT, other)
    assert right_slope(relative_loss, STUDENT, TEACHER)
    assert float(absolute_loss(STUDENT, STUDENT)) == float(relative_loss(STUDENT, STUDENT)) == 0


def test_a_metric_that_is_met_has_no_slope():
    given = inputs()
    equal = given.student["vectors"].detach().clone().requires_grad_()
    given = replace(given, student={"vectors": equal}, teacher={"vectors": equal.detach()})
    relative_loss(equal, equal.detach()).backward()
    assert equal.grad is not None
    assert float(equal.grad.abs().sum()) == 0


@pytest.mark.parametrize("neighbours", [1, 3, 9])
def test_locality_is_a_loop(neighbours):
    total = 0.0
    for i in range(5):
        squares = {j: apart(*TEACHER[[i, j]]) ** 2 for j in range(5) if j != i}
        near = sorted(squares, key=lambda j: squares[j])[:neighbours]
        weights = {j: math.exp(-squares[j] / 0.8) for j in near}
        total += sum(weights[j] / sum(weights.values()) * apart(*STUDENT[[i, j]]) ** 2 for j in near) / 5
    assert float(locality_loss(STUDENT, TEACHER, neighbours, 0.8)) == pytest.approx(total, rel=1e-12)
    assert right_slope(locality_loss, STUDENT, TEACHER, neighbours, 0.8)
    assert (locality_weights(TEACHER, neighbours, 0.8) > 0).sum(1).tolist() == [min(neighbours, 4)] * 5


@pytest.mark.parametrize("discrepancy", [None, 0.3])
def test_ranking_is_a_loop(discrepancy):
    total = 0.0
    for ours, theirs in zip(STUDENT.tolist(), normal(4, 5, 3).tolist(), strict=True):
        order = sorted(range(3), key=lambda item: -theirs[item])[:2]
        norm = sum(math.exp(-r / 2) for r in (1, 2))
        for r, item in enumerate(order, 1):
            weight = math.exp(-r / 2) / norm
            if discrepancy is not None:
                rank = 1 + sum(score > ours[item] for score in ours)
                weight *= max(0.0, math.tanh(discrepancy * (rank - r)))
            total += weight * math.log(1 + math.exp(-ours[item])) / 5
    assert float(ranking_loss(STUDENT, normal(4, 5, 3), 2, 2.0, discrepancy)) == pytest.approx(total, rel=1e-12)
    assert right_slope(ranking_loss, STUDENT, normal(4, 5, 3), 2, 2.0, discrepancy)


def test_ranks_that_agree_cost_nothing_once_they_count():
    given = replace(inputs(), progress=0.3)
    given = replace(given, teacher_logits=given.student_logits.detach())
    assert method("ranking", discrepancy_after=0.2)(given) == 0
    assert method("ranking", discrepancy_after=0.4)(given) > 0
