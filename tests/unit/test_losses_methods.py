"""What holds of every loss that a recipe can name: it has an example, a page's worth of settings, finite gradients."""

import re
from dataclasses import replace
from typing import get_args

import pytest
import torch

from kdcore.config.losses import AnyLossTerm, LossTerm
from kdcore.config.losses.base import FeatureTerm
from tests.support.methods import EXAMPLES, inputs, method

TYPES = {one.model_fields["type"].default: one for one in get_args(get_args(AnyLossTerm)[0])}


def test_every_loss_has_an_example():
    assert set(EXAMPLES) == set(TYPES) - {"import"}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.parametrize(("kind", "batch"), [("random", 4), ("constant", 4), ("zero", 4), ("random", 1), ("zero", 1)])
def test_gradients_are_finite_on_degenerate_input(name, kind, batch):
    loss_of = method(name)
    given = inputs(batch, kind, through_networks=loss_of.needs_input_gradient)
    loss = loss_of(given)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    if not loss.requires_grad:
        assert batch == 1, "a loss without a gradient teaches nothing"
        return
    loss.backward()
    leaves = [given.student_logits, *given.student.values(), *loss_of.parameters()]
    if loss_of.needs_input_gradient:
        assert given.student_model is not None
        leaves = list(given.student_model.parameters())
    found = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert found
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
@pytest.mark.parametrize(("own", "features"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_method_takes_features_of_another_type_than_its_own(name, own, features):
    given = inputs()
    cast = {path: one.detach().to(getattr(torch, features)).requires_grad_() for path, one in given.student.items()}
    loss = method(name).to(getattr(torch, own))(replace(given, student=cast))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_method_says_where_it_comes_from(name):
    home = TYPES[name].home
    assert re.fullmatch(r"kdcore\.losses\.(response|feature|relation|attention|transformer)\.\w+:\w+", home)
    assert type(method(name)).__doc__


def test_a_weight_over_the_run():
    term = LossTerm(weight=2.0, final_weight=0.0, warmup=0.25, until=0.75)
    assert [term.weight_at(progress) for progress in (0.0, 0.125, 0.5, 0.75)] == [0.0, 0.875, 1.0, 0.0]


def test_layers_come_in_pairs():
    assert FeatureTerm(at="a").teacher_paths == ("a",)
    with pytest.raises(ValueError, match="`teacher_at` needs one path for each of `at`: got 1 for 2"):
        FeatureTerm(at=("a", "b"), teacher_at="c")
