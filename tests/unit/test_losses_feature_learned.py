"""Losses of features that learn branches, variances, generators or an assignment of channels."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck
from torchdistill.losses.mid_level import AffinityLoss, KTALoss, PADL2Loss, SRDLoss

from kdcore.config.losses.feature_later import ClassAttentionTerm
from kdcore.errors import ConfigError
from kdcore.losses.feature.adaptive_normalisation import logits_with, with_statistics_of
from kdcore.losses.feature.class_attention import ClassAttention, class_attention, class_maps
from kdcore.losses.feature.factor_transfer import factor_transfer
from kdcore.losses.feature.knowledge_adaptation import affinity
from kdcore.losses.feature.masked_generative import masked
from kdcore.losses.feature.matching_guided import Matching, assign, channel_costs, strongest
from kdcore.losses.feature.overhaul import partial_distance
from kdcore.losses.feature.prime_aware import adaptive_distance
from kdcore.losses.feature.simple_recipe import log_sum_of_powers
from kdcore.losses.feature.task_oriented import orthogonal_penalty
from kdcore.losses.feature.wasserstein import gaussian_distance
from kdcore.losses.layers import head_weight
from kdcore.losses.projectors import pooled
from kdcore.taps import layer_of
from tests.support.features import FEW, SEEDS, SIZES, length, normal, pair
from tests.support.methods import inputs, method, shapes

LOSSES = {
    "affinity": affinity,
    "class_attention": class_attention,
    "adaptive": lambda s, t: adaptive_distance(s.flatten(1), t.flatten(1), 0.3 * t.flatten(1)),
    "wasserstein": lambda s, t: gaussian_distance(s, t, grid=2),
    "powers": log_sum_of_powers,
    "orthogonal": lambda s, t: orthogonal_penalty(s[0, :, 0]),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_slopes_are_those_of_the_value(name: str):
    student, teacher = pair(3, (2, 4, 3, 5))
    assert gradcheck(lambda s: LOSSES[name](s, teacher), student.requires_grad_())


@pytest.mark.parametrize("name", ["affinity", "class_attention", "adaptive", "wasserstein", "powers"])
def test_half_precision_is_promoted(name: str):
    student, teacher = pair(4, (2, 4, 4, 4))
    loss = LOSSES[name](student.bfloat16(), teacher.bfloat16())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), LOSSES[name](student, teacher), rtol=0.05, atol=0.005)


def test_class_maps_are_those_whose_mean_is_the_logits():
    maps, head = normal(1, 2, 4, 3, 3), nn.Linear(4, 5, bias=False).double()
    torch.testing.assert_close(class_maps(maps, head.weight).mean((2, 3)), head(maps.mean((2, 3))))


@FEW
@given(SEEDS, SIZES)
def test_class_attention(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, (*size[:2], 4, 4))
    total = 0.0
    for ours, theirs in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        maps = []
        for one in (ours, theirs):
            cells = [float(one[y : y + 2, x : x + 2].mean()) for y in (0, 2) for x in (0, 2)]
            maps.append([cell / length(cells) for cell in cells])
        total += sum((a - b) ** 2 for a, b in zip(*maps, strict=True))
    assert math.isclose(class_attention(student, teacher), total / (size[0] * size[1] * 4), abs_tol=1e-12)
    torch.testing.assert_close(class_attention(3 * student, teacher), class_attention(student, teacher))


def _classifier(channels: int) -> nn.Module:
    model = nn.Sequential()
    model.add_module("fc", nn.Linear(channels, 5))
    return model


def test_cat_kd_goes_through_the_heads_of_both():
    student, teacher = _classifier(4), _classifier(6)
    term = ClassAttentionTerm(at="maps", head="fc", teacher_head="fc")
    given_ = inputs()
    object.__setattr__(given_, "student_model", student)
    loss = ClassAttention(term, shapes(student, teacher))(given_)
    ours = class_maps(given_.student["maps"], student.fc.weight)
    theirs = class_maps(given_.teacher["maps"], teacher.fc.weight)
    torch.testing.assert_close(loss, class_attention(ours, theirs))
    loss.backward()
    assert student.fc.weight.grad is not None
    assert teacher.fc.weight.grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_head": "fc"}, "the teacher is not live"),
        ({}, "got 4 of the student and 6 of the teacher"),
    ],
)
def test_cat_kd_without_heads_needs_maps_of_classes(settings: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        ClassAttention(ClassAttentionTerm(at="maps", **settings), shapes())(inputs())


@FEW
@given(SEEDS, st.integers(1, 3), st.integers(1, 4))
def test_adaptive_distance(seed: int, batch: int, width: int):
    student, teacher, spread = (normal(seed + n, batch, width) for n in range(3))
    cells = zip(*(one.flatten().tolist() for one in (student, teacher, spread)), strict=True)
    total = sum((t - s) ** 2 / (1e-6 + math.exp(v)) + v for s, t, v in cells)
    assert math.isclose(adaptive_distance(student, teacher, spread), total / batch / width, abs_tol=1e-9)


def test_adaptive_distance_equals_torchdistill():
    student, teacher, spread = (normal(n, 3, 4).float() for n in range(3))
    outputs = {"embed": {"output": student}, "spread": {"output": spread}}
    theirs = PADL2Loss("embed", "embed", module_path="spread")(outputs, {"embed": {"output": teacher}})
    torch.testing.assert_close(adaptive_distance(student, teacher, spread), theirs, atol=1e-6, rtol=1e-5)


def test_the_variance_of_a_sample_that_cannot_be_followed_grows_to_its_distance():
    student, teacher = torch.zeros(2, 1), torch.tensor([[0.1], [10.0]])
    spread = teacher.square().log().requires_grad_()
    adaptive_distance(student, teacher, spread).backward()
    assert float(spread.grad.abs().max()) < 1e-4


def test_maps_are_pooled_and_vectors_stay():
    maps, vectors = normal(1, 2, 3, 4, 5), normal(2, 2, 3)
    torch.testing.assert_close(pooled(maps), maps.flatten(2).mean(2))
    assert torch.equal(pooled(vectors), vectors)


@FEW
@given(SEEDS, st.sampled_from([(1, 3, 3), (2, 4, 4), (2, 5, 3), (3, 4, 2)]))
def test_wasserstein(seed: int, sizes: tuple[int, int, int]):
    grid, height, width = sizes
    student, teacher = pair(seed, (2, 3, height, width))
    wanted = 0.0
    for row, column in itertools.product(range(grid), range(grid)):
        ys = slice(row * height // grid, math.ceil((row + 1) * height / grid))
        xs = slice(column * width // grid, math.ceil((column + 1) * width / grid))
        for ours, theirs in zip(student[:, :, ys, xs].flatten(0, 1), teacher[:, :, ys, xs].flatten(0, 1), strict=True):
            deviations = [math.sqrt((float(one.var()) if one.numel() > 1 else 0.0) + 1e-5) for one in (ours, theirs)]
            means = float(ours.mean() - theirs.mean()) ** 2
            wanted += (4 * means + (deviations[0] - deviations[1]) ** 2) / grid**2 / 2
    assert math.isclose(gaussian_distance(student, teacher, grid), wanted, rel_tol=1e-9)


def test_maps_get_the_statistics_of_others():
    student, teacher = normal(1, 2, 3, 4, 4), normal(2, 2, 3, 5, 5)
    mixed = with_statistics_of(student, teacher)
    torch.testing.assert_close(mixed.mean((2, 3)), student.mean((2, 3)))
    torch.testing.assert_close(mixed.std((2, 3)), student.std((2, 3)), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(with_statistics_of(teacher, teacher), teacher)


def test_the_teacher_judges_maps_in_the_place_of_its_own():
    teacher = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
    pixels, maps = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 2, 2, requires_grad=True)
    before = teacher(pixels)
    torch.testing.assert_close(logits_with(teacher, "1", maps, pixels), teacher[2:](maps))
    torch.testing.assert_close(logits_with(teacher, "1:input", maps, pixels), teacher[1:](maps))
    assert torch.equal(teacher(pixels), before)
    assert torch.equal(logits_with(teacher, "1", teacher[:2](pixels), pixels), before)
    with pytest.raises(ConfigError, match="has none 'layer9'"):
        logits_with(teacher, "layer9", maps, pixels)


def test_layers_are_found_below_a_wrapper():
    inner = _classifier(4)
    assert layer_of(nn.Sequential(nn.Sequential(inner)), "fc") is inner.fc
    assert layer_of(nn.ModuleList([inner, _classifier(4)]), "fc") is None
    with pytest.raises(ConfigError, match="'0' is none of this model"):
        head_weight(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), "0")


def test_wasserstein_does_not_see_the_order_of_places_nor_lose_digits_by_a_shift():
    student, teacher = pair(5, (2, 3, 4, 4))
    other = student.flatten(2)[:, :, torch.randperm(16)].reshape(student.shape)
    torch.testing.assert_close(gaussian_distance(other, teacher), gaussian_distance(student, teacher))
    far = [(one + 300).float() for one in (student, teacher)]
    torch.testing.assert_close(
        gaussian_distance(*far).double(), gaussian_distance(student, teacher), rtol=1e-3, atol=0.0
    )


@FEW
@given(SEEDS, st.sampled_from([1.0, 2.0, 4.0]))
def test_log_sum_of_powers(seed: int, power: float):
    student, teacher = normal(seed, 3, 4), normal(seed + 1, 3, 4)
    both = zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    assert math.isclose(log_sum_of_powers(student, teacher, power), math.log(sum(abs(s - t) ** power for s, t in both)))


def test_log_sum_of_powers_equals_torchdistill():
    student, teacher, logits = normal(0, 3, 4).float(), normal(1, 3, 4).float(), torch.zeros(3, 5)
    outputs = [{"f": {"output": one}, "z": {"output": logits}} for one in (student, teacher)]
    theirs = SRDLoss("f", "output", "f", "output", "z", "output", "z", "output", exponent=4.0)(*outputs)
    torch.testing.assert_close(2 * log_sum_of_powers(student, teacher), theirs, atol=1e-6, rtol=1e-5)


def test_orthogonal_matrices_cost_nothing():
    rotation = torch.linalg.qr(normal(1, 4, 4)).Q
    assert orthogonal_penalty(rotation) < 1e-12
    wide = normal(2, 2, 3)
    gaps = [
        [float(row @ other) - (i == j) for i, row in enumerate(one) for j, other in enumerate(one)]
        for one in (wide, wide.T)
    ]
    assert math.isclose(orthogonal_penalty(wide), sum(map(length, gaps)))


def test_the_teachers_branch_learns_the_task_and_not_the_student():
    tofd, given_ = method("tofd", at="maps", alpha=0.0, beta=0.0), inputs()
    alone = method("tofd", at="maps", alpha=1.0, beta=0.0)
    gradients = []
    for one in (tofd, alone):
        one(given_).backward()
        gradients.append([parameter.grad.clone() for parameter in one.theirs.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(float(gradient.abs().max()) > 0 for gradient in gradients[0])
    assert float(alone.links[0].weight.grad.abs().max()) > 0


def test_parts_are_masked():
    maps = torch.ones(64, 50, 2, 2)
    for what, axes, ratio in (("channels", (2, 3), 0.3), ("places", (1,), 0.7)):
        kept = masked(maps, ratio, what)
        assert torch.equal(kept.amax(axes), kept.amin(axes))
        assert abs(float((kept == 0).float().mean()) - ratio) < 0.1
    assert torch.equal(masked(maps, 0.0, "channels"), maps)


def test_masked_generation_sums_over_elements():
    generative, given_ = method("masked_generative", at="maps", ratio=0.0), inputs()
    made = generative.generators[0](generative.aligners[0](given_.student["maps"]))
    wanted = (made - given_.teacher["maps"]).square().sum() / 4
    torch.testing.assert_close(generative(given_), wanted)


@FEW
@given(SEEDS, SIZES)
def test_costs_of_channels(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, size, channels=3)
    for a, b in itertools.product(range(size[1]), range(3)):
        total = 0.0
        for ours, theirs in zip(student[:, a], teacher[:, b], strict=True):
            rows = [one.flatten().tolist() for one in (ours, theirs)]
            total += sum((x / length(rows[0]) - y / length(rows[1])) ** 2 for x, y in zip(*rows, strict=True))
        assert math.isclose(channel_costs(student, teacher)[a, b], total, abs_tol=1e-9)


@FEW
@given(SEEDS, st.integers(1, 3), st.integers(3, 5))
def test_the_assignment_costs_least_and_gives_no_channel_twice(seed: int, ours: int, theirs: int):
    costs = normal(seed, ours, theirs).abs()
    found = assign(costs)
    groups = theirs // ours
    assert found.shape == (ours, groups)
    assert len(set(found.flatten().tolist())) == ours * groups
    rows = torch.arange(ours).repeat_interleave(groups)
    best = min(
        sum(float(costs[row, column]) for row, column in zip(rows.tolist(), columns, strict=True))
        for columns in itertools.permutations(range(theirs), ours * groups)
    )
    assert math.isclose(float(costs[rows, found.flatten()].sum()), best)


def test_channels_that_were_shuffled_are_found_again():
    student, order = normal(1, 4, 5, 3, 3), torch.tensor([3, 1, 4, 0, 2])
    matching = Matching(5, 5, every=3)
    found = matching(student, student[:, order] * 2)
    assert torch.equal(order[found[:, 0]], torch.arange(5))
    before = found.clone()
    for _ in range(2):
        matching(student, student)
    assert torch.equal(matching.channels, before)
    matching(student, student)
    assert not torch.equal(matching.channels, before)
    matching.eval()
    assert torch.equal(matching(student, student), matching.channels)


def test_the_strongest_of_a_group_stands_for_it():
    teacher = torch.tensor([1.0, -5.0, 2.0, 3.0]).view(1, 4, 1, 1)
    assert strongest(teacher, torch.tensor([[0, 1], [3, 2]])).flatten().tolist() == [-5.0, 3.0]


def test_matching_guided_is_the_overhauls_distance_of_matched_channels():
    guided, given_ = method("matching_guided", at="maps.wide"), inputs()
    loss = guided(given_)
    order = guided.matchings[0].channels[:, 0]
    teacher = given_.teacher["maps.wide"]
    negative = teacher.clamp_max(0).sum((0, 2, 3)) / (teacher < 0).sum((0, 2, 3))
    norm = nn.BatchNorm2d(8)
    wanted = partial_distance(norm(given_.student["maps.wide"]), teacher[:, order], negative[order][:, None, None])
    torch.testing.assert_close(loss, wanted, atol=1e-4, rtol=1e-5)


def test_a_narrower_teacher_is_refused():
    with pytest.raises(ConfigError, match="which are too few"):
        Matching(4, 3, every=1)


@FEW
@given(SEEDS, SIZES)
def test_affinity(seed: int, size: tuple[int, ...]):
    student, teacher = pair(seed, size)
    total = 0.0
    for ours, theirs in zip(student.flatten(0, 1), teacher.flatten(0, 1), strict=True):
        rows = [one.flatten().tolist() for one in (ours, theirs)]
        a, b = ([x / length(row) for x in row] for row in rows)
        total += length([x * y - z * w for x, z in zip(a, b, strict=True) for y, w in zip(a, b, strict=True)])
    assert math.isclose(affinity(student, teacher), total / size[0] / size[2] / size[3], abs_tol=1e-9)
    assert affinity(student, -2 * student) < 1e-12


def test_affinity_to_a_dead_channel_is_that_of_one_vector():
    teacher = normal(1, 1, 1, 2, 2)
    assert math.isclose(affinity(torch.zeros_like(teacher), teacher), 1 / 4)


def test_knowledge_adaptation_equals_torchdistill():
    student, teacher = (one.float() for one in pair(7, (3, 4, 5, 5)))
    outputs = [{"layer": {"output": one}} for one in (student, teacher)]
    places = AffinityLoss("layer", "layer")(*outputs)
    code = KTALoss(p=1, q=2, knowledge_translator_path="layer", feature_adapter_path="layer")(*outputs)
    torch.testing.assert_close(affinity(student, teacher), places, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(factor_transfer(student, teacher), code, atol=1e-6, rtol=1e-5)


def test_the_student_does_not_teach_the_translator():
    adaptation = method("knowledge_adaptation", at="maps", reconstruction=0.0)
    adaptation(inputs()).backward()
    gradients = [parameter.grad for parameter in adaptation.translators.parameters() if parameter.grad is not None]
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients)
    for adapters in (adaptation.adapters, adaptation.affinity_adapters):
        assert any(float(parameter.grad.abs().max()) > 0 for parameter in adapters.parameters())
