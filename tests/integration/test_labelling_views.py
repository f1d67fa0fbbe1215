"""Labels of views of images: each is the teacher's answer to the very pixels that its parameters render."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.labelling.against_teacher import verify_against_teacher
from cluster.labelling.pool import ray_pool
from kdcore.data.keys import sample_key
from kdcore.data.sources import open_source
from kdcore.data.views import UNMIXED, apply_views, partner_rows, views_of
from kdcore.errors import IdentityMismatch
from kdcore.labels.soft_labels import DenseLabels, FeatureLabels
from kdcore.store import LabelStore, open_store, verify_store
from kdcore.teachers.image_classifier import ImageTeacher
from tests.support.viewed_runs import POLICY, label, viewed_recipe, write_teacher

VIEWS = POLICY["per_image"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("views")
    write_teacher(folder)
    label(viewed_recipe(folder, "store"))
    return folder


def images_of(recipe) -> dict[bytes, np.ndarray]:
    source = open_source(recipe.data)
    images = [source.read(ref) for ref in source.list("train")]
    return {sample_key(image): image.pixels for image in images}


def units_of(store: LabelStore) -> list[list[int]]:
    """The rows of each shard."""
    ends = np.cumsum([shard.rows for shard in store.manifest.shards])
    return [list(range(end - shard.rows, end)) for end, shard in zip(ends, store.manifest.shards, strict=True)]


def test_labels_are_the_teachers_of_the_views_as_rendered(root):
    recipe = viewed_recipe(root, "store")
    store, images = open_store(root / "store"), images_of(recipe)
    assert verify_store(root / "store").ok
    assert (store.num_rows, store.num_labels) == (len(images), VIEWS * len(images))
    assert recipe.teacher is not None
    teacher = ImageTeacher(recipe.teacher, 10, 1)
    spec, mixed = store.view_spec, 0
    assert spec is not None
    units = units_of(store)
    assert len(units) > 2
    for rows in units:
        keys = [store.key(row) for row in rows]
        views = store.views_of(rows)
        assert views.equal(views_of(spec.policy, keys, keys))
        mixed += int((views.mixed != UNMIXED).sum())
        partners = [None if place < 0 else images[keys[place]] for place in partner_rows(views, keys)]
        pictures = [images[key] for key in keys for _ in range(VIEWS)]
        pixels = apply_views(spec.policy, pictures, views, partners, spec.mean, spec.std, spec.size)
        wanted = teacher.logits(pixels).softmax(1)
        found = torch.cat([store.labels(row).log_probs.exp() for row in rows])
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=0.02)
        apart = (wanted[::VIEWS] - wanted[1::VIEWS]).abs().amax(1)
        assert float(apart.median()) > 0.05  # so that labels of another view would have been noticed
    assert mixed > 5


def test_labels_hang_neither_on_batches_nor_on_the_run(root):
    store = open_store(root / "store")
    small = viewed_recipe(root, "small", teacher={**viewed_recipe(root, "x").teacher.model_dump(), "batch_size": 2})
    again = viewed_recipe(root, "again")
    for recipe, exact in ((small, False), (again, True)):
        other = open_store(label(recipe))
        assert [shard.rows for shard in other.manifest.shards] == [shard.rows for shard in store.manifest.shards]
        for row in range(store.num_rows):
            mine, theirs = store.row_view(row).columns, other.row_view(row).columns
            apart = np.abs(mine["log_probs"].astype(int) - theirs["log_probs"].astype(int)).max()
            assert apart <= (0 if exact else 1)
            assert store.views_of([row]).equal(other.views_of([row]))


def test_statistics_and_the_manifest_count_views(root):
    extra = open_store(root / "store").manifest.extra
    rows = open_store(root / "store").num_rows
    assert extra["statistics"]["labels"] == extra["statistics"]["measured_labels"] == VIEWS * rows
    assert extra["fidelity"]["labels"] == VIEWS * 40


def test_a_store_goes_on_with_its_own_policy_alone(root):
    other = viewed_recipe(root, "store", {**POLICY, "flip": 0.25})
    with pytest.raises(IdentityMismatch, match=r"views\.policy\.flip: stored 0\.5, wanted 0\.25"):
        label(other)
    with pytest.raises(IdentityMismatch, match="views"):
        label(viewed_recipe(root, "store", None))


def test_features_are_kept_of_every_view(root):
    codec = {"codec": {"type": "feature", "layers": ["blocks.2"]}, "unit_bytes": 640, "path": str(root / "features")}
    recipe = viewed_recipe(root, "features", labels=codec, training=None)
    store = open_store(label(recipe))
    labels = store.labels(0)
    assert isinstance(labels, FeatureLabels)
    assert labels.num_labels == VIEWS
    assert not torch.equal(labels.features[0], labels.features[1])


def test_sampled_labels_of_views_differ_by_view(root):
    labels = {"codec": {"type": "sampled", "draws": 20}, "unit_bytes": 640, "path": str(root / "sampled")}
    store = open_store(label(viewed_recipe(root, "sampled", labels=labels)))
    dense = open_store(root / "store")
    assert verify_store(root / "sampled").ok
    for row in range(8):
        sampled, whole = store.labels(row), dense.labels(dense.row_of(store.key(row)))
        assert isinstance(whole, DenseLabels)
        weights = torch.zeros(VIEWS, 10).index_put_((sampled.label_of_entry(), sampled.ids), sampled.weights)
        assert float((weights - whole.log_probs.exp()).abs().sum(1).max()) < 1


def test_two_replicas_on_ray_write_the_same_labels(root):
    recipe = viewed_recipe(root, "ray", cluster={"replicas": 2})
    store, other = open_store(root / "store"), open_store(label(recipe, ray_pool))
    assert [other.key(row) for row in range(other.num_rows)] == [store.key(row) for row in range(store.num_rows)]
    for row in range(store.num_rows):
        ours, theirs = store.row_view(row).columns, other.row_view(row).columns
        assert np.array_equal(ours["log_probs"], theirs["log_probs"])
        assert store.views_of([row]).equal(other.views_of([row]))
    assert verify_against_teacher(root / "ray", recipe).problems == []
