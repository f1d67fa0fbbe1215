"""What holds of every loss that a recipe can name: it has an example, a page's worth of settings, finite gradients."""

import re
from dataclasses import replace
from typing import get_args

import pytest
import torch

from kdcore.config.losses import AnyLossTerm, LossTerm
from kdcore.config.losses.base import FeatureTerm
from kdcore.losses.registry import method_class
from tests.support.methods import EXAMPLES, inputs, method, term

TYPES = {one.model_fields["type"].default: one for one in get_args(get_args(AnyLossTerm)[0])}


def test_every_loss_has_an_example():
    assert set(EXAMPLES) == set(TYPES) - {"import"}


DEGENERATE = [("random", 4), ("constant", 4), ("zero", 4), ("random", 1), ("zero", 1)]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_gradients_are_finite_on_degenerate_input(name):
    for kind, batch in DEGENERATE:
        _check_gradients(name, kind, batch)


def _check_gradients(name: str, kind: str, batch: int) -> None:
    loss_of = method(name)
    given = inputs(batch, kind, through_networks=loss_of.needs_input_gradient)
    loss = loss_of(given)
    assert loss.shape == (), (kind, batch)
    assert torch.isfinite(loss), (kind, batch)
    if not loss.requires_grad:
        assert batch == 1, "a loss without a gradient teaches nothing"
        return
    loss.backward()
    leaves = [given.student_logits, *given.student.values(), *loss_of.parameters()]
    if loss_of.needs_input_gradient:
        assert given.student_model is not None
        leaves = list(given.student_model.parameters())
    found = [leaf.grad for leaf in leaves if leaf.grad is not None]
    assert found, (kind, batch)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found), (kind, batch)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_a_method_takes_features_of_another_type_than_its_own(name):
    given = inputs()
    for own, features in ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)):
        cast = {path: one.detach().to(features).requires_grad_() for path, one in given.student.items()}
        loss = method(name).to(own)(replace(given, student=cast))
        assert loss.dtype == torch.float32, own
        assert torch.isfinite(loss), own


def test_a_method_says_where_it_comes_from():
    for name in EXAMPLES:
        home = TYPES[name].home
        assert re.fullmatch(
            r"kdcore\.losses\.(response|feature|relation|attention|transformer|teachers)\.\w+:\w+", home
        )
        assert method_class(term(name)).__doc__, name


def test_a_weight_over_the_run():
    fading = LossTerm(weight=2.0, final_weight=0.0, warmup=0.25, until=0.75)
    assert [fading.weight_at(progress) for progress in (0.0, 0.125, 0.5, 0.75)] == [0.0, 0.875, 1.0, 0.0]


def test_layers_come_in_pairs():
    assert FeatureTerm(at="a").teacher_paths == ("a",)
    with pytest.raises(ValueError, match="`teacher_at` needs one path for each of `at`: got 1 for 2"):
        FeatureTerm(at=("a", "b"), teacher_at="c")
