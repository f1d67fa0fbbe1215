"""Students see the pixels that labels are of, each view once before any comes again, mixed with mixed classes."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdcore.data.order import epoch_views, sample_index
from kdcore.data.sources import open_source
from kdcore.data.viewed import view_spec
from kdcore.data.views import UNMIXED, apply_views, own_shares, partner_rows, views_of
from kdcore.errors import IdentityMismatch, MissingLabels
from kdcore.labels.soft_labels import DenseLabels
from kdcore.losses.response.mixed_targets import partner_excess
from kdcore.models.convnet import ConvNet
from kdcore.planning import plan_units
from kdcore.store import open_store
from kdcore.training.arms import Arm
from kdcore.training.image_samples import ImageSamples, image_samples
from kdcore.training.image_views import Partners
from kdcore.training.model import DistillModel
from kdcore.training.task import make_task
from tests.support.training import write_labels
from tests.support.viewed_runs import POLICY, viewed_recipe

VIEWS = POLICY["per_image"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("training")
    write_labels(viewed_recipe(root, "store"))
    return root


def samples_of(recipe, uses_labels: bool = True, endless: bool = False) -> ImageSamples:
    return image_samples(recipe, open_source(recipe.data), uses_labels, endless)


def test_every_view_comes_once_in_as_many_epochs():
    indices = np.arange(50)
    seen = np.stack([epoch_views(indices, 3, epoch, 5) for epoch in range(10)])
    assert (np.sort(seen[:5], 0) == np.arange(5)[:, None]).all()
    assert (seen[:5] == seen[5:]).all()
    assert len(set(seen[0].tolist())) > 1  # images begin with views of their own
    assert (seen[0] != epoch_views(indices, 4, 0, 5)).any()
    assert (epoch_views(indices, 3, 7, None) == 7).all()
    numbers = np.concatenate([sample_index(3, step, 25, 50, 5) for step in range(4)])
    assert (numbers % 50).tolist() == np.concatenate([sample_index(3, step, 25, 50) for step in range(4)]).tolist()
    assert (numbers[:50] // 50).tolist() == epoch_views(numbers[:50] % 50, 3, 0, 5).tolist()
    assert (numbers[50:] // 50).tolist() == epoch_views(numbers[50:] % 50, 3, 1, 5).tolist()


def test_a_student_sees_the_pixels_and_labels_of_its_views(root):
    recipe = viewed_recipe(root, "store")
    samples, store, spec = samples_of(recipe), open_store(root / "store"), view_spec(recipe.data)
    assert spec is not None
    source = open_source(recipe.data)
    _, units = plan_units(source, "train", recipe.labels.unit_bytes)
    planned = [(sample, unit) for unit in units for sample in unit]
    assert samples.views == VIEWS
    count, mixed = len(samples), 0
    indices = np.array([number + count * view for number in range(count) for view in (2, 0)])
    batch = samples.batch(indices)
    assert batch.partner_targets is not None
    assert batch.shares is not None
    assert isinstance(batch.labels, DenseLabels)
    for place, index in enumerate(indices.tolist()):
        (ref, key, _), unit = planned[index % count]
        view = views_of(spec.policy, [key], [other for _, other, _ in unit])[index // count : index // count + 1]
        row = int(partner_rows(view, [other for _, other, _ in unit])[0])
        partner = None if row < 0 else source.read(unit[row][0])
        pixels = apply_views(
            spec.policy, [source.read(ref).pixels], view, [None if partner is None else partner.pixels],
            spec.mean, spec.std, spec.size,
        )  # fmt: skip
        assert torch.equal(batch.pixels[place], pixels[0])
        wanted = store.labels(store.row_of(key), index // count, index // count + 1)
        assert isinstance(wanted, DenseLabels)
        assert torch.equal(batch.labels.log_probs[place], wanted.log_probs[0])
        assert int(batch.targets[place]) == source.read(ref).target
        assert int(batch.partner_targets[place]) == (source.read(ref) if partner is None else partner).target
        assert float(batch.shares[place]) == pytest.approx(float(own_shares(view, spec.size)[0]))
        mixed += int(view.mixed[0] != UNMIXED)
    assert mixed > 5


def test_a_baseline_sees_the_same_with_and_without_a_store(root):
    stored, drawn = viewed_recipe(root, "store"), viewed_recipe(root, "none")
    indices = np.array([0, 5 + 40, 5 + 80, 12])
    student = samples_of(stored).batch(indices)
    for recipe in (stored, drawn):
        batch = samples_of(recipe, False).batch(indices)
        assert batch.labels is None
        for name in ("pixels", "targets", "partner_targets", "shares"):
            assert torch.equal(getattr(batch, name), getattr(student, name)), name


@pytest.mark.parametrize("views", [POLICY, None])
def test_images_that_memory_has_no_room_for_are_read_once_a_batch_several_at_a_time(root, monkeypatch, views):
    recipe = viewed_recipe(root, "none", views)
    indices = np.array([0, 5, 12, 5, 30])
    whole = samples_of(recipe, False).batch(indices)
    monkeypatch.setattr("kdcore.training.image_samples._CACHE_BYTES", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    samples = samples_of(recipe, False)
    read, names, both = samples._source.read, [], threading.Barrier(2)

    def slow(ref):
        names.append(ref.name)
        if ref.name in names[:2]:  # of the first two neither is done before the other began
            both.wait(timeout=30)
        return read(ref)

    monkeypatch.setattr(samples._source, "read", slow)
    batch = samples.batch(indices)
    assert torch.equal(batch.pixels, whole.pixels)
    assert torch.equal(batch.targets, whole.targets)
    assert len(names) == len(set(names)) >= 4
    assert not samples._held


@pytest.mark.parametrize("each", [1, 3])
def test_a_random_teacher_of_views_is_one_an_epoch(tmp_path, each):
    """The views of a store come again and again, and not always with the same teacher."""
    views = {**POLICY, "per_image": each}
    for teacher in (0, 1):
        write_labels(viewed_recipe(tmp_path, str(teacher), views), teacher)
    mix = {"rule": "random", "stores": [{"path": str(tmp_path / str(teacher))} for teacher in (0, 1)]}
    recipe = viewed_recipe(tmp_path, "mix", views, teacher=None, labels={"mix": mix, "unit_bytes": 640})
    one = samples_of(viewed_recipe(tmp_path, "0", views))
    samples, baseline, first = samples_of(recipe), samples_of(recipe, False), np.arange(len(one))
    assert samples.views is baseline.views is None
    heard = []
    for epoch in range(2 * each):
        batch, wanted = samples.batch(first + len(first) * epoch), one.batch(first + len(first) * (epoch % each))
        assert torch.equal(batch.pixels, wanted.pixels)
        assert torch.equal(baseline.batch(first + len(first) * epoch).pixels, wanted.pixels)
        assert isinstance(batch.labels, DenseLabels)
        assert isinstance(wanted.labels, DenseLabels)
        heard.append((batch.labels.log_probs == wanted.labels.log_probs).all(1))
    for view in range(each):
        changes = (heard[view] != heard[view + each]).float().mean()
        assert 0.2 < float(changes) < 0.8


def test_arms_without_a_store_see_another_view_in_every_epoch(root):
    recipe = viewed_recipe(root, "plain", {"crop": {"type": "pad"}, "flip": 0.5}, teacher=None)
    samples = make_task(recipe, Arm("student-seed0", 0, False)).samples
    assert isinstance(samples, ImageSamples)
    assert samples.views is None
    seen = {samples.batch(np.array([3 + len(samples) * epoch])).pixels.numpy().tobytes() for epoch in range(8)}
    assert len(seen) > 4
    batch = samples.batch(np.array([3]))
    assert batch.shares is None
    assert make_task(viewed_recipe(root, "store"), Arm("baseline-seed0", 0, False)).samples.views == VIEWS


def test_digests_tell_views_apart(root):
    samples = samples_of(viewed_recipe(root, "store"))
    count = len(samples)
    digests = samples.digests(np.array([4, 4 + count, 4 + 2 * count, 5]))
    assert len(set(digests.tolist())) == 4
    assert digests.tolist() == samples.digests(np.array([4, 4 + count, 4 + 2 * count, 5])).tolist()


def test_a_rank_without_work_gets_a_picture_without_targets(root):
    batch = samples_of(viewed_recipe(root, "store")).batch(np.zeros(0, dtype=np.int64))
    assert len(batch.pixels) == 1
    assert batch.partner_targets is not None
    assert batch.shares is not None
    assert len(batch.targets) == len(batch.partner_targets) == len(batch.shares) == 0


def test_labels_of_other_views_are_refused(root):
    flipped = viewed_recipe(root, "store", {**POLICY, "flip": 0.0})
    with pytest.raises(IdentityMismatch, match=r"data\.views"):
        samples_of(flipped)
    with pytest.raises(IdentityMismatch, match=r"data\.views"):
        samples_of(viewed_recipe(root, "store", None))
    plain = viewed_recipe(root, "whole", None)
    write_labels(plain)
    with pytest.raises(IdentityMismatch, match="crop or a mirror image"):
        samples_of(viewed_recipe(root, "whole"))


def test_a_partner_is_of_the_own_unit_where_its_bits_are_of_several():
    keys = [bytes([number]) + bytes(15) for number in range(4)]
    keys += [keys[1][:15] + b"x"]  # as the second, up to its last bits
    views = views_of(viewed_recipe(Path("/"), "x", {"mix": {"mixup": 1.0}}).data.views, [keys[0]], keys[:2])
    units = np.array([0, 0, 0, 1, 1])
    assert Partners(keys, units).of(views, np.array([0])).tolist() == [1]
    assert Partners(keys, units).of(views, np.array([3])).tolist() == [4]
    for wrong in (np.zeros(5, np.int64), np.array([0, 1, 1, 2, 2])):
        with pytest.raises(MissingLabels, match="mixed with one other image"):
            Partners(keys, wrong).of(views, np.array([0]))
    with pytest.raises(MissingLabels, match="0 have a key"):
        Partners(keys[2:4], np.zeros(2, np.int64)).of(views, np.array([0]))


def test_classes_are_mixed_as_pictures_are():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 10, generator=generator, dtype=torch.float64).requires_grad_()
    targets, others = torch.randint(10, (2, 6), generator=generator)
    shares = torch.rand(6, generator=generator)
    both = shares.double()[:, None] * functional.one_hot(targets, 10) + (1 - shares.double())[
        :, None
    ] * functional.one_hot(others, 10)
    wanted = functional.cross_entropy(logits, both, reduction="sum")
    found = functional.cross_entropy(logits, targets, reduction="sum") + partner_excess(logits, targets, others, shares)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()))
    ours, theirs = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_a_student_whose_weights_are_bfloat16_learns_from_mixed_views(root):
    recipe = viewed_recipe(root, "store")
    assert recipe.training is not None
    batch = samples_of(recipe).batch(np.arange(12))
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = DistillModel(ConvNet(10, 1, width=6, depth=2).to(dtype), recipe.training, True)
        loss, metrics = model(batch)
        loss.backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
        losses.append((float(loss.detach()), float(metrics["cross_entropy"])))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
