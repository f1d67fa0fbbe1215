"""MHGD: graphs beside loops, and who learns from which part of the loss."""

import math
from dataclasses import replace

import pytest
import torch

from kdcore.losses.relation.attention_graph import Heads, graph_divergence
from tests.support.features import normal
from tests.support.methods import inputs, method
from tests.support.relations import right_slope

AFTER, BEFORE = normal(0, 4, 5), normal(1, 4, 3)


def heads(count: int = 2) -> Heads:
    torch.manual_seed(0)
    return Heads(3, 5, count).double()


def test_the_divergence_is_a_loop():
    student, teacher = normal(2, 2, 4, 4), normal(3, 2, 4, 4)

    def likely(row):
        powers = [math.exp(math.tanh(one)) for one in row.tolist()]
        return [one / sum(powers) for one in powers]

    total = 0.0
    for head in range(2):
        for row in range(4):
            ours, theirs = likely(student[head, row]), likely(teacher[head, row])
            total += sum(a * math.log(a / b) for a, b in zip(ours, theirs, strict=True)) / 4
    assert float(graph_divergence(student, teacher)) == pytest.approx(total, rel=1e-12)
    assert right_slope(graph_divergence, student, teacher)
    assert float(graph_divergence(teacher, teacher)) == 0


def test_a_graph_is_a_loop_over_heads():
    made = heads()

    def seen(module, vectors):
        values = vectors @ module[0].weight.detach().T
        spread = (values.var(0, unbiased=False) + module[1].eps).sqrt()
        return ((values - values.mean(0)) / spread).reshape(4, 4, 2)

    graph = made.graph(AFTER, BEFORE).tolist()
    sent, received = seen(made.sender, AFTER), seen(made.receiver, BEFORE)
    for head in range(2):
        for i in range(4):
            for j in range(4):
                expected = sum(float(sent[i, d, head] * received[j, d, head]) for d in range(4))
                assert graph[head][i][j] == pytest.approx(expected, rel=1e-9)


def test_a_frozen_graph_teaches_no_heads():
    made = heads()
    leaf = AFTER.clone().requires_grad_()
    made.frozen_graph(leaf, BEFORE).square().sum().backward()
    assert float(leaf.grad.abs().sum()) > 0
    assert all(one.grad is None for one in made.parameters())
    assert made.training
    torch.testing.assert_close(made.frozen_graph(AFTER, BEFORE), made.eval().graph(AFTER, BEFORE))


def test_heads_learn_to_see_one_layer_in_the_other():
    made = heads(8)
    after = torch.nn.functional.normalize(AFTER)
    first = made.eval().loss(after, BEFORE).item()
    learnt = list(made.train().parameters())
    for _ in range(60):
        slopes = torch.autograd.grad(made.loss(after, BEFORE), learnt)
        for one, slope in zip(learnt, slopes, strict=True):
            one.data -= 0.3 * slope
    assert made.eval().loss(after, BEFORE).item() < first / 2


def test_the_student_learns_from_graphs_and_heads_from_the_teacher():
    loss_of, given = method("mhgd"), inputs()
    loss_of(given).backward()
    assert float(given.student["maps.deep"].grad.abs().sum()) > 0
    slopes = []
    for seed in (0, 1):
        again = method("mhgd")
        again(replace(given, student=inputs(seed=seed).student)).backward()
        slopes.append([one.grad.clone() for one in again.parameters()])
    for one, other in zip(*slopes, strict=True):
        assert torch.equal(one, other)
