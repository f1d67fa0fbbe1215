"""Losses of gradients by pixels, beside gradients by finite differences."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.losses.attention.gradient_attention import gradient_attention
from kdcore.losses.attention.jacobian import jacobian_matching
from kdcore.losses.method import LossInputs
from tests.support.methods import inputs, method


def double(batch: int = 3) -> LossInputs:
    """The example's networks and pixels in float64."""
    given = inputs(batch)
    assert given.student_model is not None and given.teacher_model is not None and given.pixels is not None  # noqa: PT018
    pixels = given.pixels.detach().double().requires_grad_()
    student = given.student_model.double()(pixels)
    return replace(given, pixels=pixels, student_logits=student, teacher_model=given.teacher_model.double())


def differences(model: nn.Module | None, pixels: Tensor | None, score) -> Tensor:
    """d score(model(pixels)) / d pixels [B, P], by differences of each pixel."""
    assert model is not None
    assert pixels is not None
    with torch.no_grad():
        flat = pixels.flatten(1)
        steps = 1e-5 * torch.eye(flat.shape[1], dtype=flat.dtype)
        ends = [score(model((flat + sign * step).view_as(pixels))) for step in steps for sign in (1, -1)]
        return torch.stack([(after - before) / 2e-5 for after, before in zip(ends[::2], ends[1::2], strict=True)], 1)


def test_jacobian_matching_is_of_the_logit_that_the_teacher_is_surest_of():
    given = double()
    assert given.teacher_model is not None
    best = given.teacher_model(given.pixels).argmax(1)
    ours, theirs = (
        differences(model, given.pixels, lambda logits: logits[range(3), best])
        for model in (given.student_model, given.teacher_model)
    )
    wanted = sum(
        float(((one / one.norm() - other / other.norm()) ** 2).sum()) for one, other in zip(ours, theirs, strict=True)
    )
    assert float(method("jacobian")(given).detach()) == pytest.approx(wanted / 3, rel=1e-6)


def test_gradient_attention_is_of_the_cross_entropy():
    given = double()
    ours, theirs = (
        differences(
            model, given.pixels, lambda logits: functional.cross_entropy(logits, given.targets, reduction="none")
        )
        for model in (given.student_model, given.teacher_model)
    )
    wanted = float((ours - theirs).square().sum()) / 2 / 3
    assert float(method("gradient_attention")(given).detach()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("name", ["jacobian", "gradient_attention"])
def test_a_student_that_is_the_teacher_has_no_loss_and_other_teachers_get_no_gradient(name):
    given = double()
    assert given.teacher_model is not None
    loss = method(name)(given)
    loss.backward()
    assert float(loss.detach()) > 1e-3
    assert all(parameter.grad is None for parameter in given.teacher_model.parameters())
    same = replace(given, teacher_model=given.student_model, student_logits=given.student_model(given.pixels))
    assert float(method(name)(same).detach()) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["jacobian", "gradient_attention"])
def test_the_student_learns_from_the_gradient_of_a_gradient(name):
    given = double()
    assert given.student_model is not None
    loss = method(name)(given)
    weight = given.student_model.get_parameter("maps.weight")
    (gradient,) = torch.autograd.grad(loss, weight)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-5 * gradient
        ends.append(float(method(name)(replace(given, student_logits=given.student_model(given.pixels))).detach()))
        with torch.no_grad():
            weight -= sign * 1e-5 * gradient
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(float(gradient.square().sum()), rel=1e-5)


@pytest.mark.parametrize("loss", [jacobian_matching, gradient_attention])
def test_gradients_are_those_of_the_value(loss):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    assert torch.autograd.gradcheck(lambda found: loss(found, teacher), student.requires_grad_())


def test_jacobians_are_compared_by_direction():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, generator=generator) for _ in range(2))
    torch.testing.assert_close(jacobian_matching(7 * student, teacher), jacobian_matching(student, teacher))
    assert not torch.isclose(gradient_attention(7 * student, teacher), gradient_attention(student, teacher))
