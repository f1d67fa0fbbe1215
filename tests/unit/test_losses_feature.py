"""Losses of features without parameters of their own, beside loops in float64 and beside torchdistill's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torchdistill.losses.mid_level import AltActTransferLoss, ATLoss, FTLoss, VIDLoss

from kdcore.losses.feature.activation_boundary import activation_boundary
from kdcore.losses.feature.attention_transfer import attention_transfer
from kdcore.losses.feature.factor_transfer import factor_transfer
from kdcore.losses.feature.fitnet import hint_loss
from kdcore.losses.feature.kernel_alignment import kernel_alignment
from kdcore.losses.feature.neuron_selectivity import neuron_selectivity
from kdcore.losses.feature.overhaul import partial_distance
from kdcore.losses.feature.review import hierarchical_context
from kdcore.losses.feature.variational_information import gaussian_surprise
from tests.support.features import FEW, SEEDS, SIZES, length, normal, pair

MARGINS = torch.tensor([-0.3, -0.5, -0.1, -0.2], dtype=torch.float64)[:, None, None]
PAIR = {"pair": {"student": {"path": "layer", "io": "output"}, "teacher": {"path": "layer", "io": "output"}}}
LOSSES = {
    "hints": hint_loss,
    "hints.paper": lambda s, t: hint_loss(s, t, "paper"),
    "nst": neuron_selectivity,
    "nst.linear": lambda s, t: neuron_selectivity(s, t, "linear"),
    "attention": attention_transfer,
    "attention.paper": lambda s, t: attention_transfer(s, t, "paper", 3.0, "max"),
    "factors": factor_transfer,
    "factors.2": lambda s, t: factor_transfer(s, t, 2),
    "boundary": activation_boundary,
    "overhaul": lambda s, t: partial_distance(s, t, MARGINS[: s.shape[1]]),
    "surprise": lambda s, t: gaussian_surprise(s, MARGINS[: s.shape[1]].exp(), t),
    "review": hierarchical_context,
    "alignment": kernel_alignment,
}
ZERO_WHEN_EQUAL = sorted(set(LOSSES) - {"boundary", "overhaul", "surprise"})


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_slopes_are_those_of_the_value(name: str):
    student, teacher = pair(3, (2, 4, 3, 3))
    assert gradcheck(lambda s: LOSSES[name](s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_half_precision_is_promoted(name: str):
    student, teacher = pair(4, (2, 4, 3, 3))
    loss = LOSSES[name](student.bfloat16(), teacher.bfloat16())
    assert loss.dtype == (torch.float64 if name in ("overhaul", "surprise") else torch.float32)
    torch.testing.assert_close(loss.double(), LOSSES[name](student, teacher), rtol=0.05, atol=0.005)


@pytest.mark.parametrize("name", ZERO_WHEN_EQUAL)
def test_nothing_is_lost_where_both_are_equal(name: str):
    student, teacher = pair(5, (5, 4, 3, 3))
    assert LOSSES[name](student, student.clone()).abs() < 1e-12
    assert LOSSES[name](student, teacher) > 1e-4


@FEW
@given(SEEDS, SIZES)
def test_hints(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, size)
    squares = [(s - t) ** 2 for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)]
    assert math.isclose(hint_loss(student, teacher), sum(squares) / len(squares))
    assert math.isclose(hint_loss(student, teacher, "paper"), sum(squares) / 2 / size[0])


def test_hints_average_the_larger_map_down():
    student, teacher = normal(1, 2, 3, 2, 2), normal(2, 2, 3, 4, 4)
    small = torch.nn.functional.avg_pool2d(teacher, 2)
    assert torch.equal(hint_loss(student, teacher), hint_loss(student, small))


def _unit_channels(maps: Tensor) -> list[list[float]]:
    rows = [row.flatten().tolist() for row in maps]
    return [[x / length(row) for x in row] for row in rows]


def _kernels(kernel: str, ours: list[list[float]], theirs: list[list[float]]):
    across = [sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for a in ours for b in theirs]
    width = sum(across) / len(across)

    def k(a: list[float], b: list[float]) -> float:
        product = sum(x * y for x, y in zip(a, b, strict=True))
        distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        return {"linear": product, "polynomial": product**2, "gaussian": math.exp(-distance / (2 * width))}[kernel]

    return k


@FEW
@given(SEEDS, SIZES, st.sampled_from(["linear", "polynomial", "gaussian"]))
def test_neuron_selectivity(seed: int, size: tuple[int, ...], kernel: str):
    student, teacher = pair(seed, (*size[:3], size[3] + 1), channels=3)
    total = 0.0
    for ours, theirs in zip(map(_unit_channels, student), map(_unit_channels, teacher), strict=True):
        k = _kernels(kernel, ours, theirs)
        for a, b, sign in ((theirs, theirs, 1), (ours, ours, 1), (ours, theirs, -2)):
            total += sign * sum(k(x, y) for x in a for y in b) / len(a) / len(b) / size[0]
    assert math.isclose(neuron_selectivity(student, teacher, kernel), total, abs_tol=1e-9)


def test_neuron_selectivity_does_not_see_the_order_or_scale_of_channels():
    student, teacher = pair(6, (2, 4, 3, 3))
    other = 3.0 * student[:, [2, 0, 3, 1]]
    torch.testing.assert_close(neuron_selectivity(other, teacher), neuron_selectivity(student, teacher))


@FEW
@given(SEEDS, SIZES, st.sampled_from([1.0, 2.0, 3.0]), st.sampled_from(["mean", "max"]))
def test_attention_of_the_paper(seed: int, size: tuple[int, ...], power: float, channels: str):
    student, teacher = pair(seed, size, channels=2)
    total = 0.0
    for sample in zip(student, teacher, strict=True):
        maps = []
        for one in sample:
            places = one.flatten(1).T.abs().tolist()
            kind = {"mean": lambda place: sum(x**power for x in place), "max": lambda place: max(place) ** power}
            strength = [kind[channels](place) for place in places]
            maps.append([x / length(strength) for x in strength])
        total += length([a - b for a, b in zip(*maps, strict=True)]) / size[0]
    assert math.isclose(attention_transfer(student, teacher, "paper", power, channels), total, abs_tol=1e-7)


@FEW
@given(SEEDS, SIZES)
def test_factors(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, size)
    gaps = []
    for sample in zip(student, teacher, strict=True):
        rows = [one.flatten().tolist() for one in sample]
        gaps.append([a / length(rows[0]) - b / length(rows[1]) for a, b in zip(*rows, strict=True)])
    elements = [abs(x) for gap in gaps for x in gap]
    assert math.isclose(factor_transfer(student, teacher), sum(elements) / len(elements))
    assert math.isclose(factor_transfer(student, teacher, 2), sum(map(length, gaps)) / size[0])
    assert math.isclose(factor_transfer(7 * student, teacher), factor_transfer(student, teacher))


@FEW
@given(SEEDS, SIZES, st.sampled_from([0.5, 1.0]))
def test_boundaries(seed: int, size: tuple[int, ...], margin: float):
    student, teacher = pair(seed, size)
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
        if t > 0 and s <= margin:
            total += (s - margin) ** 2
    assert math.isclose(activation_boundary(student, teacher, margin), total / size[0])


def test_boundaries_are_silent_beyond_the_margin():
    teacher = normal(1, 2, 3, 2, 2)
    assert activation_boundary(1.01 * teacher.sign(), teacher) == 0


@FEW
@given(SEEDS, SIZES)
def test_overhaul(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, size)
    margins = MARGINS[: size[1]]
    total = 0.0
    for channel in range(size[1]):
        both = zip(student[:, channel].flatten().tolist(), teacher[:, channel].flatten().tolist(), strict=True)
        for s, t in both:
            target = max(t, float(margins[channel]))
            total += 0.0 if s <= target <= 0 else (target - s) ** 2
    assert math.isclose(partial_distance(student, teacher, margins), total / size[0], abs_tol=1e-12)


@FEW
@given(SEEDS, SIZES)
def test_surprise(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, size)
    variance = normal(seed + 2, size[1], 1, 1).exp()
    total = 0.0
    for channel, spread in enumerate(variance.flatten().tolist()):
        both = zip(student[:, channel].flatten().tolist(), teacher[:, channel].flatten().tolist(), strict=True)
        total += sum(((s - t) ** 2 / spread + math.log(spread)) / 2 for s, t in both)
    assert math.isclose(gaussian_surprise(student, variance, teacher), total / student.numel(), rel_tol=1e-9)


@FEW
@given(SEEDS, st.integers(2, 4), st.integers(1, 3))
def test_kernel_alignment(seed: int, batch: int, width: int):
    student, teacher = normal(seed, batch, width), normal(seed + 1, batch, 2)
    x, y = (one - one.mean(0) for one in (student, teacher))
    ratio = (x.T @ y).square().sum() / ((x.T @ x).square().sum().sqrt() * (y.T @ y).square().sum().sqrt())
    torch.testing.assert_close(kernel_alignment(student, teacher), 1 - ratio)


def test_kernel_alignment_does_not_see_rotation_scale_or_shift():
    student, teacher = normal(1, 5, 3), normal(2, 5, 4)
    turned = 2.0 * student @ torch.linalg.qr(normal(3, 3, 3)).Q + 7
    torch.testing.assert_close(kernel_alignment(turned, teacher), kernel_alignment(student, teacher))


def test_hierarchical_context_weighs_the_sizes_below_the_height():
    student, teacher = pair(1, (2, 3, 4, 4))
    parts = [(1.0, student, teacher)]
    for weight, size in ((0.5, 2), (0.25, 1)):
        parts.append((weight, *(torch.nn.functional.avg_pool2d(maps, 4 // size) for maps in (student, teacher))))
    wanted = sum(weight * float(((s - t) ** 2).mean()) for weight, s, t in parts) / 1.75
    assert math.isclose(hierarchical_context(student, teacher), wanted)


def _outputs(*features: Tensor) -> list[dict]:
    return [{"layer": {"output": one}} for one in features]


def test_equals_torchdistill():
    student, teacher = (one.float() for one in pair(7, (3, 4, 5, 5)))
    for ours, theirs in (
        (attention_transfer(student, teacher, "paper"), ATLoss(PAIR, mode="paper")),
        (activation_boundary(student, teacher), AltActTransferLoss(PAIR, margin=1.0, reduction="mean")),
        (factor_transfer(student, teacher), FTLoss(p=1, paraphraser_path="layer", translator_path="layer")),
        (factor_transfer(student, teacher, 2), FTLoss(p=2, paraphraser_path="layer", translator_path="layer")),
    ):
        torch.testing.assert_close(ours, theirs(*_outputs(student, teacher)), atol=1e-6, rtol=1e-5)


def test_surprise_equals_torchdistill():
    student, teacher = (one.float() for one in pair(8, (3, 4, 5, 5)))
    variance = MARGINS.float().exp()
    theirs = VIDLoss(PAIR)({"layer": {"output": (student, variance)}}, *_outputs(teacher))
    torch.testing.assert_close(gaussian_surprise(student, variance, teacher), theirs, atol=1e-6, rtol=1e-5)
