"""Losses of several teachers, whose labels a mix keeps apart, against what they mean."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config import Recipe
from kdcore.config.mix import MixConfig, VotesConfig
from kdcore.errors import ConfigError, LabelError, MissingExtra, MissingLabels
from kdcore.identity import sample_key_text
from kdcore.labels import ApartLabels, DenseCodec, DenseLabels, FeatureCodec, SparseLabels, TopKCodec, concat
from kdcore.labels.mixing import epsilon, votes
from kdcore.labels.mixing.votes import _noise as noise_of
from kdcore.losses.method import Answer, LossInputs, Shapes
from kdcore.losses.registry import make_method
from kdcore.losses.teachers.gradient_space import capped_simplex, shortest
from kdcore.losses.teachers.learned_weights import LearnedWeights
from kdcore.store import LabelStore
from kdcore.store.mix.mix import LabelMix
from kdcore.training.batches import ImageBatch
from kdcore.training.classified import StoreJoin
from kdcore.training.composition import compose
from kdcore.training.needs import check_apart
from kdcore.training.teacher_side import StoredTeacher, StoredTeachers
from tests.support.methods import CLASSES, TERMS
from tests.support.mixes import write_store

BATCH, TEACHERS = 6, 3


def terms(*given: dict[str, Any]) -> list[Any]:
    return [TERMS.validate_python(one) for one in given]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heard(maps: tuple[int, ...] = (4, 3, 3)) -> LossInputs:
    """Of three teachers, logits and one layer each."""
    each = tuple(
        Answer(2 * random(BATCH, CLASSES, seed=1 + number), {"maps": random(BATCH, 5 + number, 3, 3, seed=9 + number)})
        for number in range(TEACHERS)
    )
    features = {"maps": random(BATCH, *maps, seed=20).requires_grad_()}
    logits = random(BATCH, CLASSES).requires_grad_()
    return LossInputs(logits, None, torch.arange(BATCH) % CLASSES, features, each=each)


def shapes() -> Shapes:
    each = tuple({"maps": (5 + number, 3, 3)} for number in range(TEACHERS))
    return Shapes({"maps": (4, 3, 3)}, {}, CLASSES, BATCH, each=each)


def made(**settings: Any) -> Any:
    torch.manual_seed(0)
    return make_method(TERMS.validate_python(settings), shapes())


@pytest.mark.parametrize("tolerance", [1.0, 0.6, 0.4])
def test_the_shortest_sum_of_gradients_on_a_grid(tolerance):
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(steps, steps)
    grid = torch.cat([grid, 1 - grid.sum(1, keepdim=True)], 1)
    grid = grid[(grid > -1e-9).all(1) & (grid <= tolerance + 1e-9).all(1)]
    for seed in range(6):
        gradients = random(TEACHERS, 4, seed=seed).double() * torch.tensor([1.0, 3.0, 0.2])[:, None]
        products = gradients @ gradients.T
        shares = shortest(products, tolerance)
        assert float(shares.sum()) == pytest.approx(1)
        assert 0 <= float(shares.min()) <= float(shares.max()) <= tolerance + 1e-9
        lengths = torch.einsum("gm,mn,gn->g", grid, products, grid)
        assert float(shares @ products @ shares) <= float(lengths.min()) * (1 + 1e-6)


def test_the_shortest_sum_of_two_gradients_has_a_formula():
    """Also where one is much longer, and shares pass the bound before they come back from it."""
    for seed, longer in product(range(40), (1.0, 30.0, 200.0)):
        gradients = random(2, 9, seed=seed).double() * torch.tensor([[1.0], [longer]])
        (a, c), (_, b) = (gradients @ gradients.T).tolist()
        wanted = min(1.0, max(0.0, (b - c) / (a + b - 2 * c)))
        assert shortest(gradients @ gradients.T, 1.0).tolist() == pytest.approx([wanted, 1 - wanted], abs=1e-6)


def test_a_tolerance_of_one_share_leaves_the_mean():
    assert shortest(torch.eye(4), 0.25).tolist() == [0.25] * 4
    assert shortest(torch.zeros(2, 2), 1.0).tolist() == [0.5] * 2
    assert capped_simplex(np.array([5.0, 0.0, -5.0]), 0.6).tolist() == pytest.approx([0.6, 0.4, 0.0])


def test_gradient_space_goes_down_for_every_teacher():
    """Without a bound the sum has no negative product with any teacher's own gradient."""
    inputs = heard()
    (found,) = torch.autograd.grad(made(type="ae_kd", tolerance=1)(inputs), inputs.student_logits)
    ours = (inputs.student_logits / 4).softmax(1)
    own = torch.stack([4 * (ours - (one.logits / 4).softmax(1)) / BATCH for one in inputs.teachers])  # pyright: ignore
    shares = shortest((own.flatten(1) @ own.flatten(1).T).detach(), 1.0).float()
    torch.testing.assert_close(found, torch.einsum("m,mbc->bc", shares, own))
    products = (own * found).sum((1, 2))
    assert bool((products >= found.square().sum() * (1 - 1e-3)).all())


def test_learned_shares_are_equal_at_first_and_the_loss_is_that_of_the_weighted_mean():
    inputs, method = heard(), made(type="amtml", at="maps", temperature=2, truth=0.5)
    assert isinstance(method, LearnedWeights)
    torch.testing.assert_close(method.shares(inputs).exp(), torch.full((TEACHERS, BATCH), 1 / TEACHERS))
    nn.init.normal_(method.scores.weight)
    shares = method.shares(inputs).exp()
    assert float(shares.detach().std()) > 0.05
    said = torch.stack([one.logits for one in inputs.teachers if one.logits is not None])
    mean = (shares[:, :, None] * (said / 2).softmax(-1)).sum(0)
    distance = functional.kl_div((inputs.student_logits / 2).log_softmax(-1), mean, reduction="batchmean")
    right = (shares[:, :, None] * said.softmax(-1)).sum(0).gather(1, inputs.targets[:, None])
    torch.testing.assert_close(method(inputs), 4 * distance - 0.5 * right.log().mean())


def test_shares_learn_who_is_right():
    inputs = heard()
    right = functional.one_hot(inputs.targets, CLASSES) * 8.0
    inputs = replace(inputs, each=(Answer(-right), Answer(right), Answer(random(BATCH, CLASSES))))
    method = made(type="amtml", at="maps")
    optimizer = torch.optim.SGD(method.parameters(), 1.0)
    for _ in range(30):
        optimizer.zero_grad()
        method(inputs).backward()
        optimizer.step()
    assert float(method.shares(inputs).exp()[1].min().detach()) > 0.9
    assert inputs.student["maps"].grad is None, "the student's features are looked at, and not moved by shares"


def test_a_common_space_has_an_adapter_for_every_teacher_and_keeps_their_features():
    method, inputs = made(type="common_space", at="maps", dimension=7, reconstruction=0.5), heard()
    ours = method.shared[0](method.ours[0](inputs.student["maps"]))
    wanted = []
    for number, answer in enumerate(inputs.teachers):
        theirs = method.shared[0](method.theirs[0][number](answer.features["maps"]))
        again = method.again[0][number](theirs)
        wanted.append((ours - theirs).square().mean() + 0.5 * (again - answer.features["maps"]).square().mean())
    loss = method(inputs)
    torch.testing.assert_close(loss, torch.stack(wanted).mean())
    loss.backward()
    assert inputs.student["maps"].grad is not None


def test_a_common_space_is_of_maps_of_every_teacher():
    each = ({"maps": (5, 3, 3)}, {"maps": (6,)})
    with pytest.raises(ConfigError, match="this loss compares feature maps"):
        make_method(terms({"type": "common_space", "at": "maps"})[0], replace(shapes(), each=each))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[LabelStore]:
    """Two of distributions, one of features."""
    root: Path = tmp_path_factory.mktemp("stores")
    features = FeatureCodec.of_shapes((("layer", (2, 2, 2)),))
    codecs = (DenseCodec(8), DenseCodec(8), features)
    return [write_store(root / str(number), number, codec, kind="image") for number, codec in enumerate(codecs)]


def mixed(stores: list[LabelStore], rule: str = "apart", **settings: Any) -> LabelMix:
    paths = [{"path": store.path} for store in stores]
    return LabelMix(stores, MixConfig.model_validate({"stores": paths, "rule": rule, **settings}))


def test_labels_of_a_mix_are_kept_apart(stores):
    mix, rows = mixed(stores), np.array([2, 0])
    labels = mix.labels_of(rows, np.zeros(2, int), np.ones(2, int))
    assert isinstance(labels, ApartLabels)
    assert (labels.num_labels, labels.num_classes, mix.num_classes) == (2, 8, 8)
    for part, store in zip(labels.parts, stores, strict=True):
        own = store.labels_of(rows, np.zeros(2, int), np.ones(2, int))
        value = "log_probs" if isinstance(own, DenseLabels) else "features"
        assert torch.equal(getattr(part, value), getattr(own, value))
    twice = concat([labels, labels.index([0])])
    assert isinstance(twice, ApartLabels)
    assert twice.num_labels == 3
    assert all(part.num_labels == 3 for part in labels.index([0, 1, 1]).each(lambda one: one.clone()).parts)


def test_teachers_kept_apart_have_all_samples_and_no_other_remedy_is_named(stores, tmp_path):
    part = write_store(tmp_path, 3, DenseCodec(8), range(2), kind="image")
    with pytest.raises(MissingLabels, match=r"has no label for 2 of the 4 samples .*: label the same data$"):
        mixed([stores[0], part])


def test_a_loss_hears_the_teacher_that_it_names_or_the_mean(stores):
    mix = mixed(stores)
    labels = mix.labels_of(np.arange(4), np.zeros(4, int), np.ones(4, int))
    assert isinstance(labels, ApartLabels)
    batch = ImageBatch(random(4, 1, 4, 4), torch.arange(4), labels, indices=torch.arange(4))
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8, 8))
    given = terms(
        {"type": "kl", "teacher": 1},
        {"type": "kl"},
        {"type": "attention_transfer", "at": "0", "teacher_at": "layer", "teacher": 2},
    )
    from kdcore.losses.compose import paths_apart

    side = StoredTeachers(mix.codecs, paths_apart(given, 3))
    together = compose(student, given, side, batch.pixels[:1], 8, 4)
    total, values = together.loss(batch)
    total.backward()

    def alone(term: Any, codec: Any, part: Any) -> Tensor:
        paths = {"layer": "x"} if codec is mix.codecs[2] else {}
        found = compose(
            student, [term.model_copy(update={"teacher": None})], StoredTeacher(codec, paths), batch.pixels[:1], 8, 4
        )
        return found.loss(replace(batch, labels=part))[0]

    dense = [part for part in labels.parts if isinstance(part, DenseLabels)]
    mean = DenseLabels(torch.stack([part.log_probs.exp() for part in dense]).mean(0).log())
    wanted = [alone(given[0], mix.codecs[1], dense[1]), alone(given[1], mix.codecs[0], mean)]
    wanted.append(alone(given[2], mix.codecs[2], labels.parts[2]))
    for name, one in zip(("loss/kl", "loss/kl_2", "loss/attention_transfer"), wanted, strict=True):
        torch.testing.assert_close(values[name], one.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"type": "kl", "teacher": 3}, "hears teacher 3, and labels.mix has the stores 0 to 2"),
        ({"type": "kl", "teacher": 2}, "needs the logits of all classes, which a store"),
        ({"type": "feed", "at": "0", "teacher_at": "layer"}, "compares features of one teacher"),
        ({"type": "feed", "at": "0", "teacher_at": "layer", "teacher": 0}, "needs features of layer"),
        ({"type": "amtml", "at": "0"}, "needs the logits of all classes"),
        ({"type": "sskd", "at": "0", "teacher": 0}, "passes of the teacher of its own"),
    ],
)  # fmt: skip
def test_what_a_store_does_not_have_is_told(stores, term, message):
    with pytest.raises(ConfigError, match=message):
        check_apart(terms(term), mixed(stores).codecs)


def test_the_mean_is_made_where_the_labels_are(stores):
    """On a GPU, where a batch is with its labels."""
    mix = mixed(stores[:2])
    labels = mix.labels_of(np.arange(4), np.zeros(4, int), np.ones(4, int))
    assert isinstance(labels, ApartLabels)
    said = StoredTeachers(mix.codecs, [{}, {}]).answer(torch.empty(4, 1, device="meta"), labels.to("meta"))
    assert said.logits is not None
    assert (said.logits.device.type, said.logits.shape) == ("meta", (4, 8))


def test_a_mean_with_top_k_labels_has_no_logits():
    codecs, hears = (DenseCodec(8), TopKCodec(2, 8)), {"type": "dkd", "teacher": 0}
    check_apart(terms(hears, {"type": "kl", "temperature": 1}), codecs)
    with pytest.raises(ConfigError, match="the loss 'dkd' needs the logits of all classes"):
        check_apart(terms({"type": "dkd"}), codecs)


def test_rule_and_losses_go_together():
    mix = {"rule": "apart", "stores": [{"path": "a"}, {"path": "b"}]}
    values: dict[str, Any] = {
        "name": "apart",
        "data": {"type": "digits"},
        "labels": {"mix": mix},
        "student": {"type": "image_classifier", "name": "mlp"},
        "training": {"steps": 1, "losses": [{"type": "ae_kd"}]},
    }
    Recipe.model_validate(values)
    for change, message in (
        ({"training": {"steps": 1}}, "is for training.losses, which say"),
        (
            {
                "labels": {"mix": {**mix, "rule": "random"}},
                "training": {"steps": 1, "losses": [{"type": "kl", "teacher": 1}]},
            },
            "teacher is of labels.mix",
        ),
        ({"labels": {"mix": {**mix, "missing": "rest"}}}, "hears every teacher of every sample"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe.model_validate({**values, **change})


NOISY = {"noise": "gaussian", "scale": 0.5}


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_noise_has_its_distribution(noise):
    numbers = np.random.default_rng(0).random((40_000, 1))
    found = np.sort(noise_of(VotesConfig(noise=noise, scale=3.0), numbers).numpy().ravel())
    wanted = torch.distributions.Normal(0.0, 3.0) if noise == "gaussian" else torch.distributions.Laplace(0.0, 3.0)
    below = wanted.cdf(torch.from_numpy(found)).numpy()
    assert np.abs(below - (np.arange(len(found)) + 0.5) / len(found)).max() < 0.01
    ends = noise_of(VotesConfig(noise=noise, scale=1.0), np.array([[0.0, 1 - 2.0**-53]]))
    assert bool(torch.isfinite(ends).all())


def test_votes_are_counted_and_noise_hangs_on_the_label_alone():
    classes = torch.tensor([[1, 0, 2], [1, 3, 2], [3, 3, 0]])
    labels = [DenseLabels(functional.one_hot(row, 4).float().mul(9).log_softmax(1)) for row in classes]
    seeds = np.arange(3, dtype=np.uint64)
    assert votes(labels, VotesConfig(scale=1e-9), seeds).ids.tolist() == [1, 3, 2]
    many = votes([label.index([0] * 400) for label in labels], VotesConfig(scale=1.0), np.arange(400, dtype=np.uint64))
    shares = many.ids.bincount(minlength=4) / 400
    assert 0.4 < float(shares[1]) < 0.9
    assert bool((shares > 0).all()), "a class without a vote has noise, too"
    again = votes(
        [label.index([0] * 5) for label in labels], VotesConfig(scale=1.0), np.arange(400, dtype=np.uint64)[90:95]
    )
    assert torch.equal(again.ids, many.ids[90:95])
    drawn = SparseLabels(torch.tensor([1]), torch.ones(1), torch.tensor([0, 1]), 4)
    with pytest.raises(LabelError, match="a vote is for a teacher's best class"):
        votes([drawn], VotesConfig(scale=1.0), seeds[:1])


def test_a_mix_by_votes_says_what_it_gives_away(stores, monkeypatch):
    monkeypatch.setattr("kdcore.store.mix.mix.epsilon", lambda config, asked: 100.0 * asked)
    mix = mixed(stores[:2], "votes", votes=NOISY, seed=3)
    assert mix.notes[0].startswith(
        "4 labels by the votes of 2 teachers with gaussian noise of scale 0.5: epsilon 400 at"
    )
    rows, zeros = np.array([3, 1, 3]), np.zeros(3, int)
    labels = mix.labels_of(rows, zeros, zeros + 1)
    assert isinstance(labels, SparseLabels)
    assert (labels.offsets.tolist(), labels.weights.tolist()) == ([0, 1, 2, 3], [1.0] * 3)
    assert labels.ids[0] == labels.ids[2] == mix.labels(3).ids[0]  # pyright: ignore
    assert (mix.form, mix.kinds) == ("weights", {"weights"})


def test_votes_need_their_noise_and_the_accounting(stores, monkeypatch):
    for settings, said in (
        ({}, "go together"),
        ({"votes": NOISY, "missing": "rest"}, "hears every teacher"),
        ({"votes": NOISY}, "`seed` that is a secret"),
    ):
        with pytest.raises(ValueError, match=said):
            mixed(stores[:2], "votes", **settings)
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(
        MissingExtra, match=r"needs 'dp-accounting', which is not installed: pip install 'kdcore\[privacy\]'"
    ):
        mixed(stores[:2], "votes", votes=NOISY, seed=3)


def test_what_noisy_votes_cost():
    """Renyi: order a of one Gaussian vote costs a / s^2 (Papernot et al. 2018, proposition 8); Laplace 2 / b in all."""
    pytest.importorskip("dp_accounting")
    scale, asked, delta = 40.0, 1000, 1e-5
    orders = np.arange(2, 500) / 2 + 0.25
    bound = (orders * asked / scale**2 + np.log(1 / delta) / (orders - 1)).min()
    found = epsilon(VotesConfig(scale=scale, delta=delta), asked)
    assert 0.8 * bound < found <= bound
    assert epsilon(VotesConfig(noise="laplace", scale=10.0, delta=1e-12), 1) == pytest.approx(0.2, rel=1e-2)


def whole(labels: Any) -> Tensor:
    """The probabilities of named classes."""
    if isinstance(labels, DenseLabels):
        return labels.log_probs.exp()
    named = torch.zeros(labels.num_labels, labels.num_classes)
    return named.scatter_add(1, labels.ids.clamp(min=0), labels.log_probs.exp().masked_fill(labels.ids < 0, 0.0))


@pytest.mark.parametrize("codec", [DenseCodec(8), TopKCodec(3, 8)])
def test_a_sample_that_no_store_has_learns_from_its_hard_label(tmp_path, codec):
    parts = [
        write_store(tmp_path / str(teacher), teacher, codec, numbers, kind="image")
        for teacher, numbers in enumerate(([0, 1], [1, 2]))
    ]
    mix = mixed(parts, "arithmetic", missing="hard")
    samples: Any = [(None, sample_key_text(str(number)), 1) for number in range(5)]
    join = StoreJoin(mix, samples)
    assert join.notes[-1].startswith("2 of 5 samples are in no store of the mix: they learn from their hard label")
    labels = join.of(np.array([4, 1, 3, 0]), np.zeros(4, int), lambda numbers: torch.from_numpy(numbers + 2))
    known = join.of(np.array([1, 0]), np.zeros(2, int), lambda numbers: torch.zeros(0))
    wanted = torch.zeros(4, 8)
    wanted[0, 6] = wanted[2, 5] = 1
    wanted[[1, 3]] = whole(known)
    torch.testing.assert_close(whole(labels), wanted)
    only = join.of(np.array([4]), np.zeros(1, int), lambda numbers: torch.from_numpy(numbers + 2))
    torch.testing.assert_close(whole(only), wanted[:1])
    with pytest.raises(MissingLabels):
        StoreJoin(mixed(parts, "arithmetic", missing="rest"), samples)
