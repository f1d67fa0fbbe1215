"""The shared parts of image synthesis, each against a plain reference."""

import math

import pytest
import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError, LabelError
from kdcore.synthesis.images.augment import flipped, resized_crops, shifted
from kdcore.synthesis.images.balance import balanced_targets, class_balance
from kdcore.synthesis.images.cmi import told_apart
from kdcore.synthesis.images.disagreement import agreed_kl, jensen_shannon, kl
from kdcore.synthesis.images.generator import Generator, NoisyLayers
from kdcore.synthesis.images.impressions import class_similarity
from kdcore.synthesis.images.patch_similarity import similarity_entropy
from kdcore.synthesis.images.pixels import Collector, PixelSpace, noted, total
from kdcore.synthesis.images.pool import ImagePool
from kdcore.synthesis.images.priors import l2, pixel_statistics, total_variation
from kdcore.synthesis.images.statistics import Inside, last_linear
from kdcore.synthesis.images.transfer import balanced_choice, shapes
from tests.support.made_images import SPACE, BatchNormNet


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def net() -> BatchNormNet:
    made = BatchNormNet().double()
    for norm in (made.bn1, made.bn2):
        norm.running_mean.copy_(torch.randn(6))  # pyright: ignore[reportOptionalMemberAccess]
        norm.running_var.copy_(torch.rand(6) + 0.5)  # pyright: ignore[reportOptionalMemberAccess]
    return made.eval()


def test_distance_of_statistics_is_that_of_a_dense_reference(net: BatchNormNet) -> None:
    seen = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    with Inside(net, statistics=True, means=True, head=True) as inside:
        net(seen)
        got, means, features = inside.distance(first_layer=3.0), inside.means(), inside.head_input
    first = net.conv1(seen)
    second = net.conv2(torch.relu(net.bn1(first)))
    wanted = 0.0
    for factor, maps, norm in ((3.0, first, net.bn1), (1.0, second, net.bn2)):
        columns = maps.permute(1, 0, 2, 3).reshape(6, -1)
        mean = columns.sum(1) / columns.shape[1]
        variance = ((columns - mean[:, None]) ** 2).sum(1) / columns.shape[1]
        of_means = ((mean - norm.running_mean) ** 2).sum().sqrt()
        wanted += factor * (of_means + ((variance - norm.running_var) ** 2).sum().sqrt())
    torch.testing.assert_close(got.double(), torch.as_tensor(wanted), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        means.double(), torch.cat([first.mean((2, 3)), second.mean((2, 3))], 1), rtol=1e-5, atol=1e-5
    )
    assert features is not None
    torch.testing.assert_close(net.head(features.double()), net(seen), rtol=1e-5, atol=1e-5)
    assert not net.bn1._forward_pre_hooks


class ChannelsFirst(nn.LayerNorm):
    """As convolutional networks wrap it: maps [B, C, H, W]."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_means_are_of_channels_wherever_a_layer_norm_has_them() -> None:
    maps, tokens = torch.randn(2, 4, 3, 5), torch.randn(2, 6, 4)
    for norm, given, places in ((ChannelsFirst(4), maps, (2, 3)), (nn.LayerNorm(4), tokens, 1)):
        with Inside(norm, means=True) as inside:
            norm(given)
            torch.testing.assert_close(inside.means(), given.mean(places))
    with pytest.raises(ConfigError, match=r"synthesis\.type cmi compares images by"):
        Inside(nn.Linear(2, 2), means=True)


def test_distance_of_layer_norms_is_that_of_a_dense_reference() -> None:
    maps = ChannelsFirst(4)
    net = nn.Sequential(maps, nn.Flatten(2), nn.Linear(9, 5), nn.LayerNorm(5, elementwise_affine=False))
    nn.init.normal_(maps.weight)
    nn.init.normal_(maps.bias)
    seen = torch.randn(2, 4, 3, 3)
    with Inside(net, layer_norms=True) as inside:
        net(seen)
        got = inside.token_distance()
    wanted = torch.zeros(())
    # Channel by channel and place by place, from the definition of LayerNorm.
    for given, axis, scale, shift in ((seen, 1, maps.weight, maps.bias), (net[:3](seen), 2, torch.ones(5), None)):
        columns = given.movedim(axis, -1).flatten(0, -2)
        rows = [(row - row.mean()) / (row.var(correction=0) + 1e-5).sqrt() * scale for row in columns]
        shift = torch.zeros(len(scale)) if shift is None else shift
        outputs = torch.stack(rows) + shift
        means = [sum(column) / len(column) - at for column, at in zip(outputs.T.tolist(), shift.tolist(), strict=True)]
        spreads = [column.var(correction=0) - size**2 for column, size in zip(outputs.T, scale, strict=True)]
        wanted = wanted + torch.tensor(means).norm() + torch.stack(spreads).norm()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert not maps._forward_hooks
    with pytest.raises(ConfigError, match=r"synthesis\.layer_norm above 0 needs"):
        Inside(net[:1].append(nn.LayerNorm((3, 3)))[1:], layer_norms=True)


def test_vectors_spread_evenly_over_what_layer_norm_lets_out_are_near_its_prior() -> None:
    norm = nn.LayerNorm(6)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    found = []
    for tokens in (torch.randn(20_000, 6), torch.randn(1, 6).expand(20_000, 6)):  # evenly spread, all alike
        with torch.no_grad(), Inside(norm, layer_norms=True) as inside:
            norm(tokens)
            found.append(inside.token_distance().item())
    assert found[0] < 0.1 < 1 < found[1]


def test_a_teacher_without_statistics_or_linear_layers_is_refused() -> None:
    bare = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(ConfigError, match=r"synthesis\.batch_norm"):
        Inside(bare, statistics=True)
    with pytest.raises(ConfigError, match="no linear layer"):
        last_linear(bare)
    with pytest.raises(ConfigError, match="'0' is Conv2d"):
        last_linear(bare, "0")
    with Inside(bare, means=True) as inside:  # what goes into its convolutions
        bare(torch.full((2, 1, 4, 4), 3.0))
        torch.testing.assert_close(inside.means(), torch.full((2, 1), 3.0))


def test_priors_are_means_over_neighbours_and_pixels() -> None:
    image = torch.tensor([[0.0, 1.0], [3.0, 7.0]])[None, None]
    assert total_variation(image).item() == pytest.approx((1 + 4) / 2 + (3 + 6) / 2 + 7 + 2)
    assert l2(image).item() == pytest.approx((0 + 1 + 9 + 49) / 4)
    assert pixel_statistics(image).item() == pytest.approx(11 / 4 + abs(59 / 4 - (11 / 4) ** 2 - 1))


def test_balance_counts_classes_and_divergences_have_their_limits() -> None:
    counts = torch.bincount(balanced_targets(11, torch.zeros(4, dtype=torch.int64)))
    assert sorted(counts.tolist()) == [2, 3, 3, 3]
    assert (counts + torch.bincount(balanced_targets(1, counts), minlength=4)).tolist() == [3, 3, 3, 3]
    certain = 50 * torch.eye(4)
    assert class_balance(certain).item() == pytest.approx(0, abs=1e-5)
    assert class_balance(certain[:1]).item() == pytest.approx(math.log(4), abs=1e-5)
    assert jensen_shannon(certain[:1], certain[1:2]).item() == pytest.approx(1, abs=1e-5)
    assert jensen_shannon(certain, certain).abs().max().item() < 1e-6
    student, teacher = torch.randn(2, 6, 4)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    torch.testing.assert_close(kl(student, teacher, 2.0), 4 * (p * (p / q).log()).sum(1))
    agree = student.argmax(1) == teacher.argmax(1)
    torch.testing.assert_close(agreed_kl(student, teacher), kl(student, teacher) * agree)
    middle = (student.softmax(1) + teacher.softmax(1)) / 2
    halves = [(side * (side / middle).log()).sum(1) / 2 for side in (student.softmax(1), teacher.softmax(1))]
    torch.testing.assert_close(jensen_shannon(student, teacher), (halves[0] + halves[1]) / math.log(2))


def test_contrast_finds_its_own_and_impressions_know_who_is_alike() -> None:
    rows = torch.eye(3, 4)
    other = torch.eye(4)[3:]
    wanted = -math.log(math.exp(10) / (math.exp(10) + 3))
    assert told_apart(rows, rows, other, 0.1).item() == pytest.approx(wanted, rel=1e-2)
    similar = class_similarity(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]]))
    torch.testing.assert_close(similar[0], torch.tensor([1.0, (math.sqrt(0.5) + 1) / 2, 0.0]))


def test_patches_all_alike_have_less_entropy_than_patches_of_many_kinds() -> None:
    alike = torch.ones(2, 6, 4) + 0.01 * torch.randn(2, 6, 4)
    kinds = torch.randn(2, 6, 4)
    assert similarity_entropy(alike, 41, 0.1) < similarity_entropy(kinds, 41, 0.1)
    # All cosines 0: one Gaussian, whose entropy is known.
    straight = similarity_entropy(torch.eye(4)[None], 401, 0.05)
    assert straight.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 0.05**2), abs=1e-3)


def test_views_move_images_and_pass_gradients() -> None:
    pixels = torch.rand(4, 1, 8, 8, requires_grad=True)
    moved = shifted(pixels, 2)
    inner = pixels[:, :, 3:5, 3:5].flatten(1)
    found = moved.unfold(2, 2, 1).unfold(3, 2, 1).flatten(2, 3).flatten(3)[:, 0]
    assert (found == inner[:, None]).all(-1).any(1).all()
    assert shifted(pixels, 0) is pixels
    mirrored = flipped(torch.arange(512.0).view(64, 1, 1, 8))
    assert {bool(row[0] > row[-1]) for row in mirrored[:, 0, 0]} == {True, False}
    assert torch.equal(resized_crops(pixels, smallest=1.0), pixels) or torch.allclose(
        resized_crops(pixels, smallest=1.0), pixels, atol=1e-5
    )
    (shifted(pixels, 2) + resized_crops(pixels)).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0


def test_a_generator_fits_any_size_and_noisy_layers_give_every_class() -> None:
    for shape in ((1, 8, 8), (3, 30, 30)):
        pixels = Generator(5, 4, shape)(torch.randn(3, 5))
        assert pixels.shape == (3, *shape)
        assert pixels.min() >= 0
        assert pixels.max() <= 1
    layers = NoisyLayers(2, 6, 5)
    latents = layers(torch.randn(3, 6))
    assert latents.shape == (6, 5)
    assert not torch.allclose(latents[:3], latents[3:])


def test_a_pool_keeps_its_size_and_what_it_holds_is_rounded() -> None:
    pool = ImagePool((1, 2, 2), 4)
    pool.add(torch.full((3, 1, 2, 2), 0.2501))
    assert (pool.sample(5) == round(0.2501 * 255) / 255).all()
    pool.add(torch.ones(5, 1, 2, 2))
    assert pool.size == 4
    assert (pool.sample(64) == 1).any()


def test_a_full_pool_holds_the_same_whatever_the_number_of_threads() -> None:
    images = torch.arange(256).view(-1, 1, 1, 1).expand(-1, 1, 64, 64) / 255
    held = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 4, 4, 4, 4, 4, 4):
            torch.set_num_threads(count)
            torch.manual_seed(0)
            pool = ImagePool((1, 64, 64), 100)
            pool.add(images)  # most of them take the place of others, several that of the same
            held.append(pool.sample(200))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, held[0]) for each in held)


def test_what_is_collected_is_cut_to_what_is_wanted() -> None:
    kept = Collector(3)
    for step in (1, 2):
        kept.add(torch.full((2, 1, 1, 1), step / 255), torch.tensor([0, 1]), step, {"loss": float(step)})
    made = kept.all()
    assert (made.targets.tolist(), made.steps.tolist()) == ([0, 1, 0], [1, 1, 2])
    assert made.pixels.flatten().tolist() == [1, 1, 2]
    assert [losses["loss"] for losses in made.losses] == [1.0, 1.0, 2.0]


def test_terms_are_weighted_by_name_and_must_be_finite() -> None:
    class Weights:
        one, two = 2.0, 0.5

    terms = {"one": torch.tensor(3.0), "two": torch.tensor(4.0)}
    assert total(Weights(), terms).item() == 8.0
    assert noted(terms) == {"one": 3.0, "two": 4.0}
    with pytest.raises(LabelError, match=r"synthesis\.learning_rate"):
        noted({"one": torch.tensor(float("nan"))})
    with pytest.raises(ConfigError, match="every weight is 0"):
        total(Weights(), {})


def test_pixels_are_seen_normalised_and_kept_in_bytes() -> None:
    space = PixelSpace((2, 1, 1), (0.5, 0.25), (0.5, 0.25))
    seen = space.seen(torch.tensor([[[[1.0]], [[0.0]]]]))
    assert seen.flatten().tolist() == [1.0, -1.0]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(PixelSpace.to_bytes(PixelSpace.from_bytes(every)), every)


def test_a_balanced_choice_takes_the_surest_of_each_class_in_turn() -> None:
    sure = [(0, 5.0), (0, 4.0), (0, 6.0), (1, 1.0), (2, 3.0), (2, 2.0)]
    logits = torch.zeros(len(sure), 3)
    for row, (target, height) in enumerate(sure):
        logits[row, target] = height
    assert sorted(balanced_choice(logits, 3).tolist()) == [2, 3, 4]
    assert sorted(balanced_choice(logits, 5).tolist()) == [0, 2, 3, 4, 5]
    drawn = shapes(8, SPACE.shape)
    assert drawn.shape == (8, *SPACE.shape)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert drawn.flatten(1).std(1).min() > 0
