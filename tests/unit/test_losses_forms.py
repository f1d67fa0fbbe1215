"""Each divergence against its formula, written out on probabilities, and its slopes against autograd's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcore.config.loss import LossConfig
from kdcore.losses.forms import FORMS, form_of
from tests.support.losses import DEFINITIONS, PARAMETERS

CASES = [(name, parameters) for name, several in PARAMETERS.items() for parameters in several]


def logits_of(log_p: Tensor, slopes: Tensor) -> Tensor:
    """The gradient in the logits of single cells, by the rule that is the same for all forms."""
    return slopes - log_p.exp() * slopes.sum(-1, keepdim=True)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000), cells=st.integers(1, 6), groups=st.integers(0, 2), scale=st.sampled_from([0.1, 5.0])
)
@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_value_and_gradient_are_those_of_the_formula(name, parameters, seed, cells, groups, scale):
    generator = torch.Generator().manual_seed(seed)
    z = (scale * torch.randn(3, cells + groups, generator=generator, dtype=torch.float64)).requires_grad_()
    log_t = (scale * torch.randn(3, cells + groups, generator=generator, dtype=torch.float64)).log_softmax(-1)
    wanted = DEFINITIONS[name](log_t.exp(), z.softmax(-1), cells, **parameters)
    (wanted_gradient,) = torch.autograd.grad(wanted.sum(), z)
    log_p = z.detach().log_softmax(-1)
    value, slopes = form_of(name, **parameters)(log_t, log_p, cells)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(logits_of(log_p, slopes), wanted_gradient)


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_cells_without_mass_on_either_side_leave_everything_finite(name, parameters):
    nothing = -math.inf
    log_t = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]).log()
    log_p = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.5, 0.25, 0.25, 0.0]]).log()
    value, slopes = form_of(name, **parameters)(log_t, log_p, 3)
    assert value.isfinite().all()
    assert slopes.isfinite().all()
    assert (slopes[log_p == nothing] == 0).all()
    assert (value > 0).all()


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_it_is_zero_with_zero_gradient_where_both_are_equal(name, parameters):
    log_t = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    value, slopes = form_of(name, **parameters)(log_t, log_t, 2)
    torch.testing.assert_close(value, torch.zeros_like(value))
    torch.testing.assert_close(logits_of(log_t, slopes), torch.zeros_like(slopes))


def test_the_tail_is_never_of_the_adaptive_head():
    """A tail of 0.6 before classes of 0.3 and 0.1: the head is the two classes."""
    log_t, log_p = torch.tensor([[0.3, 0.1, 0.6]]).log(), torch.tensor([[0.2, 0.3, 0.5]]).log()
    value, _ = form_of("adaptive_kl")(log_t, log_p, 2)
    forward, reverse = (form_of(name)(log_t, log_p, 2)[0] for name in ("kl", "reverse_kl"))
    torch.testing.assert_close(value, 0.75 * forward + 0.25 * reverse)


def test_settings_name_every_form_with_its_default_parameters():
    for name in FORMS:
        config = LossConfig(type=name)  # pyright: ignore[reportArgumentType]
        form_of(config.type, **config.parameters)(torch.zeros(1, 1), torch.zeros(1, 1), 1)
        assert config.parameters == PARAMETERS[name][0]
