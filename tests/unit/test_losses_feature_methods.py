"""What losses of features learn beside the student: regressors, variances, margins, paraphrasers, fusions."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchdistill.losses.mid_level import HierarchicalContextLoss
from torchdistill.models.wrapper import AttentionBasedFusion, Paraphraser4FactorTransfer, Regressor4VID

from kdcore.config.losses.feature import OverhaulTerm
from kdcore.errors import ConfigError
from kdcore.losses.feature.factor_transfer import Paraphraser
from kdcore.losses.feature.fitnet import hint_loss, hint_regressor
from kdcore.losses.feature.margins import Margins, margin_of_norm
from kdcore.losses.feature.matching_guided import Matching
from kdcore.losses.feature.overhaul import Overhaul
from kdcore.losses.feature.review import Fusion
from kdcore.losses.feature.sem_ckd import calibrated
from kdcore.losses.method import Shapes
from kdcore.losses.projectors import ChannelNorm, project
from tests.support.features import normal
from tests.support.methods import inputs, method, shapes


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((4, 8, 8), (6, 4, 4)), ((4, 9, 9), (6, 3, 3)), ((4, 7, 6), (6, 5, 5)), ((4, 5, 5), (6, 5, 5)), ((4,), (6,))],
)
def test_a_regressor_gives_the_teachers_shape(ours: tuple[int, ...], theirs: tuple[int, ...]):
    assert hint_regressor(ours, theirs, relu=True)(torch.randn(2, *ours)).shape == (2, *theirs)


@pytest.mark.parametrize(
    ("shape", "relu", "ends"),
    [((4, 3, 3), None, True), ((4,), None, False), ((4, 3, 3), False, False), ((4,), True, True)],
)
def test_a_regressor_ends_as_the_teachers_layer(shape: tuple[int, ...], relu: bool | None, ends: bool):
    assert isinstance(hint_regressor(shape, shape, relu)[-1], nn.ReLU) == ends


def test_a_regressor_leaves_a_smaller_map_small():
    assert hint_regressor((4, 3, 3), (6, 5, 5), relu=False)(torch.randn(2, 4, 3, 3)).shape == (2, 6, 3, 3)


def test_hints_are_those_of_regressed_features_summed_over_pairs():
    fitnet, given = method("fitnet"), inputs()
    parts = [
        hint_loss(fitnet.regressors[n](given.student[path]), given.teacher[path])
        for n, path in enumerate(("maps", "vectors"))
    ]
    torch.testing.assert_close(fitnet(given), sum(parts))


def test_a_projector_keeps_its_own_precision_and_the_loss_a_wide_one():
    layer = nn.Linear(3, 2, dtype=torch.bfloat16)
    assert project(layer, torch.randn(4, 3)).dtype == torch.float32
    assert project(nn.Identity(), normal(0, 4, 3)).dtype == torch.float64


def test_one_value_a_channel_takes_running_statistics():
    norm = ChannelNorm(2)
    for _ in range(50):
        norm(3 + 2 * torch.randn(64, 2, 1, 1))
    one = torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    assert torch.allclose(norm(one).flatten(), torch.tensor([0.0, 1.0]), atol=0.3)


def test_a_norm_whose_statistics_stayed_wide_gives_what_it_was_given():
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), ChannelNorm(4), nn.Conv2d(4, 4, 1))
    for parameter in norm.parameters():
        parameter.data = parameter.data.bfloat16()
    assert project(norm, torch.randn(2, 3, 2, 2)).dtype == torch.float32
    assert norm[1].running_mean.dtype == torch.float32
    assert float(norm[1].running_mean.abs().max()) > 0


def test_variances_start_where_they_are_told_and_equal_torchdistills():
    vid = method("vid", at="maps", initial_variance=2.0)
    torch.testing.assert_close(vid.variance(0), torch.full((6,), 2.0))
    theirs = Regressor4VID(4, 6, 6, eps=1e-5, init_pred_var=2.0)
    theirs.regressor.load_state_dict(vid.regressors[0].state_dict())
    given = inputs()
    mean, variance = theirs(given.student["maps"])
    wanted = 0.5 * ((mean - given.teacher["maps"]) ** 2 / variance + variance.log()).mean()
    torch.testing.assert_close(vid(given), wanted, atol=1e-6, rtol=1e-5)


def test_the_margin_of_a_normal_is_the_mean_of_its_negative_part():
    norm = nn.BatchNorm2d(3)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, -2.0, 0.1]), torch.tensor([0.0, 1.0, 5.0])
    draws = normal(0, 200_000)
    for channel, (deviation, mean) in enumerate([(1.0, 0.0), (2.0, 1.0)]):
        values = mean + deviation * draws
        assert math.isclose(margin_of_norm(norm)[channel], values[values < 0].mean(), abs_tol=0.02)
    assert math.isclose(margin_of_norm(norm)[2], -0.3, rel_tol=1e-6)


def _margins(model: nn.Module | None) -> Margins:
    return Margins("norm", Shapes({}, {"norm": (3, 2, 2)}, 5, 10, teacher_model=model))


def test_margins_are_the_norms_of_a_live_teacher():
    model = nn.Sequential()
    model.add_module("norm", nn.BatchNorm2d(3))
    margins = _margins(model)
    assert torch.equal(margins(torch.zeros(1, 3, 2, 2)).flatten(), margin_of_norm(model.norm))


def test_margins_without_a_norm_are_means_of_all_that_was_negative():
    margins, batches = _margins(None), [normal(n, 2, 3, 2, 2) for n in (1, 2)]
    for batch in batches:
        found = margins(batch)
    seen = torch.cat(batches).transpose(0, 1).flatten(1)
    wanted = torch.stack([channel[channel < 0].mean() for channel in seen])
    torch.testing.assert_close(found.flatten(), wanted)
    margins.eval()
    torch.testing.assert_close(margins(-100 * batches[0].abs()).flatten(), wanted)
    assert set(margins.state_dict()) == {"total", "count"}


@pytest.mark.parametrize("name", ["ofd", "matching_guided"])
def test_sums_over_batches_stay_exact_in_a_network_that_is_cast(name: str):
    parts = [part for part in method(name).bfloat16().modules() if isinstance(part, Margins | Matching)]
    assert parts
    assert all(buffer.dtype != torch.bfloat16 for part in parts for buffer in part.buffers())


@pytest.mark.parametrize("name", ["ofd", "activation_boundary"])
def test_a_shallower_layer_counts_half(name: str):
    given, layers = inputs(), ("maps", "maps.wide")
    both = method(name, at=layers)
    alone = [both.pair(number, given.student[path], given.teacher[path], given) for number, path in enumerate(layers)]
    torch.testing.assert_close(both(given), alone[0] + alone[1])
    single = method(name, at=("maps",))
    single.connectors[0].load_state_dict(both.connectors[0].state_dict())
    torch.testing.assert_close(alone[0], single(given) / 2)


def test_vectors_are_no_maps():
    with pytest.raises(
        ConfigError, match=r"compares feature maps \[B, C, H, W\], but a tapped layer gives \['B', 10\]"
    ):
        Overhaul(OverhaulTerm(at="vectors"), shapes())


def test_a_paraphraser_equals_torchdistills():
    ours, theirs = Paraphraser(4, 0.5), Paraphraser4FactorTransfer(0.5, 4)
    theirs.encoder.load_state_dict(ours.encoder.state_dict())
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    maps = normal(0, 2, 4, 3, 3).float()
    factors, loss = ours(maps)
    torch.testing.assert_close(factors, theirs.encoder(maps))
    torch.testing.assert_close(loss, (theirs(maps) - maps).square().mean())


def test_the_student_does_not_teach_the_paraphraser():
    transfer = method("factor_transfer", at="maps", reconstruction=0.0)
    transfer(inputs()).backward()
    gradients = [parameter.grad for parameter in transfer.paraphrasers.parameters() if parameter.grad is not None]
    assert all(float(gradient.abs().max()) == 0 for gradient in gradients)
    assert any(float(parameter.grad.abs().max()) > 0 for parameter in transfer.translators.parameters())


def _theirs(fusion: Fusion, deepest: bool) -> AttentionBasedFusion:
    channels, width, out = fusion.enter[0].in_channels, fusion.enter[0].out_channels, fusion.leave[0].out_channels
    theirs = AttentionBasedFusion(channels, width, out, uses_attention=not deepest)
    theirs.conv1.load_state_dict(fusion.enter.state_dict())
    theirs.conv2.load_state_dict(fusion.leave.state_dict())
    if not deepest:
        theirs.attention_conv.load_state_dict(fusion.attention.state_dict())
    return theirs


def test_review_equals_torchdistills_from_deep_to_shallow():
    review, given = method("review_kd", at=("maps", "maps.wide")), inputs()
    deep, shallow = _theirs(review.fusions[1], True), _theirs(review.fusions[0], False)
    fused, mixed = deep(given.student["maps.wide"])
    top, _ = shallow(given.student["maps"], mixed, 6)
    context = HierarchicalContextLoss("x", "output", "y", "output")
    wanted = sum(
        context({"x": {"output": (features, None)}}, {"y": {"output": given.teacher[path]}})
        for features, path in ((fused, "maps.wide"), (top, "maps"))
    )
    torch.testing.assert_close(review(given), wanted, atol=1e-6, rtol=1e-5)


def test_review_brings_maps_to_the_teachers_size():
    fusion = Fusion(4, 3, (6, 2, 5), deepest=True)
    fused, _ = fusion(torch.randn(2, 4, 4, 4), None)
    assert fused.shape == (2, 6, 2, 5)


def test_sim_kd_compares_projected_maps():
    sim, given = method("sim_kd"), inputs()
    projected = sim.bottlenecks[0](given.student["maps.wide"])
    torch.testing.assert_close(sim(given), (projected - given.teacher["maps.wide"]).square().mean())
    assert [layer.out_channels for layer in sim.bottlenecks[0] if isinstance(layer, nn.Conv2d)] == [4, 4, 8]


def test_calibration_is_a_loop_over_layers():
    distances, attention = normal(1, 3, 2, 4).abs(), normal(2, 3, 2, 4).softmax(2)
    total = 0.0
    for sample in range(3):
        for ours in range(2):
            for theirs in range(4):
                total += float(distances[sample, ours, theirs] * attention[sample, ours, theirs])
    assert math.isclose(calibrated(distances, attention), total / 6)


def test_attention_of_every_layer_sums_to_one_and_compares_similarities():
    sem, given = method("sem_ckd"), inputs()
    students, teachers = (
        [given.student["maps"], given.student["maps.wide"]],
        [given.teacher["maps"], normal(3, 4, 2, 3, 3)],
    )
    sem.keys.append(sem.keys[0])
    shares = sem.attention(students, [one.float() for one in teachers])
    assert shares.shape == (4, 2, 2)
    torch.testing.assert_close(shares.sum(2), torch.ones(4, 2))

    def embed(layer: nn.Module, maps: Tensor) -> Tensor:
        rows = torch.zeros(4, 8)
        for a in range(4):
            for b in range(4):
                rows[a, b] = (maps[a] * maps[b]).sum()
        out = layer(rows)
        return out / out.norm(dim=1, keepdim=True)

    scores = [(embed(sem.queries[0], students[0]) * embed(sem.keys[0], one.float())).sum(1) for one in teachers]
    torch.testing.assert_close(shares[:, 0], torch.stack(scores, 1).softmax(1))


def test_sem_ckd_is_the_weighted_distance_of_projected_maps():
    sem, given = method("sem_ckd", at="maps", teacher_at="maps"), inputs()
    projected = sem.regressors[0][0](given.student["maps"])
    torch.testing.assert_close(sem(given), (projected - given.teacher["maps"]).square().mean())


def test_sem_ckd_refuses_a_larger_batch_and_takes_a_smaller_one():
    sem = method("sem_ckd")
    assert sem(inputs(batch=2)).isfinite()
    with pytest.raises(ConfigError, match="built for at most 8 samples a micro-batch, got 9"):
        sem(inputs(batch=9))
