"""Losses of logits as recipes name them, beside torchdistill's."""

import pytest
import torch
from torch import Tensor
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss, SKDDirectionLoss

from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs
from kdcore.losses.response.logits import standardised
from tests.support.losses import DEFINITIONS, PARAMETERS
from tests.support.methods import inputs, method


def both(seed: int = 0) -> LossInputs:
    return inputs(6, seed=seed)


def torchdistill(loss: torch.nn.Module, given: LossInputs) -> Tensor:
    return loss({"net": {"output": given.student_logits}}, {"net": {"output": given.teacher_logits}}, given.targets)


AT = ("net", "output", "net", "output")


@pytest.mark.parametrize(
    ("name", "options", "theirs", "factor"),
    [
        ("kl", {"temperature": 4.0}, KDLoss(*AT, temperature=4.0, alpha=0.0), 16.0),  # which leaves out T^2 here
        ("kl", {"temperature": 2.0, "standardise": True}, LogitStdKDLoss(*AT, temperature=2.0, alpha=0.0), 4.0),
        ("dist", {"beta": 2.0, "temperature": 4.0}, DISTLoss(*AT, beta=2.0, gamma=1.0, tau=4.0), 1.0),
        ("skd", {}, SKDDirectionLoss(*AT, tikhonov=0.1, mode="paper"), 1.0),
    ],
)
def test_equals_torchdistill(name, options, theirs, factor):
    given = both()
    ours, wanted = method(name, **options)(given), factor * torchdistill(theirs, given)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad(loss, given.student_logits)[0] for loss in (ours, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_soft_targets_are_the_divergence_that_the_type_says(name):
    given, temperature = both(), 3.0
    options = PARAMETERS[name][0]
    assert given.teacher_logits is not None
    t, p = ((logits.double() / temperature).softmax(1) for logits in (given.teacher_logits, given.student_logits))
    wanted = temperature**2 * DEFINITIONS[name](t, p, t.shape[1], **options).mean()
    found = method(name, temperature=temperature, **options)(given)
    torch.testing.assert_close(found, wanted.float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["kl", "logits", "dkd", "rld", "nkd", "dist", "multi_level", "wsld", "ttm", "skd"])
def test_standardised_losses_are_those_of_standardised_logits(name):
    given = both()
    assert given.teacher_logits is not None
    z_s, z_t = (standardised(logits.detach()) for logits in (given.student_logits, given.teacher_logits))
    plain = LossInputs(z_s, z_t, given.targets)
    torch.testing.assert_close(method(name, standardise=True)(given), method(name)(plain), rtol=1e-5, atol=1e-6)
    assert not torch.isclose(method(name, standardise=True)(given), method(name)(given))


def test_multi_level_is_the_sum_over_temperatures():
    given = both()
    parts = [method("multi_level", temperatures=[temperature])(given) for temperature in (2.0, 5.0)]
    torch.testing.assert_close(method("multi_level", temperatures=[2.0, 5.0])(given), sum(parts))
    alone = method("multi_level", temperatures=[2.0], pairs=0.0, classes=0.0)(given)
    torch.testing.assert_close(alone, method("kl", temperature=2.0)(given))


def test_only_centred_logits_ignore_a_constant():
    given = both()
    assert given.teacher_logits is not None
    shifted = LossInputs(given.student_logits + 3.0, given.teacher_logits, given.targets)
    loss = method("logits", centred=True)
    torch.testing.assert_close(loss(shifted), loss(given))
    assert bool(method("logits")(shifted) > method("logits")(given) + 1)


def test_the_temperature_of_ctkd_ascends_what_the_student_descends():
    given, loss = both(), method("ctkd", ramp=0.5)
    loss(given).backward()
    raw = loss.get_parameter("raw")
    assert raw.grad is not None
    with torch.no_grad():
        before = loss(given)
        raw -= 0.1 * raw.grad.sign()
        assert bool(loss(given) > before)


def test_feature_norm_has_a_temperature_for_each_sample():
    given = both()
    loss = method("feature_norm", length=2.0)
    longer = LossInputs(
        given.student_logits,
        given.teacher_logits,
        given.targets,
        {"vectors": 100 * given.student["vectors"]},
        {"vectors": 100 * given.teacher["vectors"]},
    )
    assert bool(loss(longer) < loss(given) / 50)


def test_logits_in_bfloat16_give_a_loss_in_float32():
    given = both()
    assert given.teacher_logits is not None
    narrow = LossInputs(given.student_logits.bfloat16(), given.teacher_logits.bfloat16(), given.targets)
    for name in ("kl", "dkd", "dist", "multi_level"):
        assert method(name)(narrow).dtype == torch.float32


def test_heatmaps_must_match():
    with pytest.raises(ConfigError, match="heatmaps are compared one by one"):
        method("heatmaps", at="maps")
