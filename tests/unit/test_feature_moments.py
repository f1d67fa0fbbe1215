"""Mean and spread of stored features: exact however they are gathered, kept in stores, used by losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcore.config.mix import MixConfig
from kdcore.errors import ConfigError, StoreError
from kdcore.labels import ApartLabels, FeatureCodec, FeatureLabels
from kdcore.labels.moments import Moments, join_moments, layer_moments, moments_of_json
from kdcore.losses.compose import paths_apart, teacher_paths
from kdcore.store import LabelStore, open_store
from kdcore.store.derive.compact import compact_store
from kdcore.store.derive.merge import merge_stores
from kdcore.store.mix.mix import LabelMix
from kdcore.training.batches import ImageBatch
from kdcore.training.composition import compose
from kdcore.training.teacher_side import StoredTeacher, StoredTeachers
from tests.support.methods import TERMS
from tests.support.mixes import write_store

LAYERS = (("maps", (3, 2, 2)), ("vector", (5,)))
SHAPES: dict[str, tuple[int, ...]] = dict(LAYERS)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.sampled_from([0.0, 1e3, 1e8]))
def test_parts_have_the_moments_of_the_whole(sizes: list[int], far: float) -> None:
    values = far + np.random.default_rng(sum(sizes)).normal(size=(sum(sizes), 3)) * [1, 5, 0]
    parts = [Moments.of(part) for part in np.split(values, np.cumsum(sizes)[:-1])]
    found = join_moments({"x": part} for part in parts)["x"]
    assert found.count == len(values)
    if len(values):
        assert np.allclose(found.mean, values.mean(0), rtol=1e-14)
        assert np.allclose(found.deviation, values.std(0), rtol=1e-6, atol=1e-7)
    again = moments_of_json({"x": found.to_json()}, "a test")["x"]
    assert (again.mean == found.mean).all()
    assert (again.squares == found.squares).all()


def assert_of(store: LabelStore) -> None:
    """What a store says is what all of its labels, read back, have."""
    rows = np.arange(store.num_rows)
    labels = store.labels_of(rows, np.zeros_like(rows), np.ones_like(rows))
    assert isinstance(labels, FeatureLabels)
    maps, vector = labels.layer("maps").double().reshape(-1, 3, 4), labels.layer("vector").double()
    (found,) = store.moments
    assert (found["maps"].count, found["vector"].count) == (4 * len(rows), len(rows))
    for name, mean, spread in (
        ("maps", maps.mean((0, 2)), maps.transpose(1, 2).reshape(-1, 3).std(0, correction=0)),
        ("vector", vector.mean(0), vector.std(0, correction=0)),
    ):
        torch.testing.assert_close(torch.tensor(found[name].mean), mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.tensor(found[name].deviation), spread, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_stores_keep_them(tmp_path: Path, dtype: str) -> None:
    codec = FeatureCodec.of_shapes(LAYERS)
    if dtype == "int8":
        codec = FeatureCodec.learn(codec.layers, torch.randn(50, codec.width), codec.shapes)
    left, right = (
        write_store(tmp_path / name, 0, codec, numbers, "image")
        for name, numbers in (("a", range(5)), ("b", (7, 3, 8)))
    )
    assert_of(left)
    # One shard is copied, in one a sample is left out that the other store has.
    merge_stores(tmp_path / "merged", [left.path, right.path])
    merged = open_store(tmp_path / "merged")
    assert merged.num_rows == 7
    assert_of(merged)
    compact_store(tmp_path / "merged", tmp_path / "compact", 1 << 20)
    assert_of(open_store(tmp_path / "compact"))
    compact_store(tmp_path / "merged", tmp_path / "copied", 1)
    assert_of(open_store(tmp_path / "copied"))


def test_a_store_of_distributions_has_none(tmp_path: Path) -> None:
    from kdcore.labels import DenseCodec

    store = write_store(tmp_path / "a", 0, DenseCodec(5), kind="image")
    assert store.moments == ({},)
    assert "feature_moments" not in store.manifest.extra


@pytest.mark.parametrize(
    "entry", [{"count": -1}, {"mean": "AAAA"}, {"squares": None}, {"mean": "AAAAAAAA+H8="}, {"count": True}]
)
def test_what_cannot_be_is_refused(entry: dict[str, Any]) -> None:
    right = Moments.of(np.ones((2, 1))).to_json()
    with pytest.raises(StoreError, match="in a store cannot be read"):
        moments_of_json({"x": {**right, **entry}}, "a store")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[LabelStore]:
    root = tmp_path_factory.mktemp("stores")
    codec = FeatureCodec.of_shapes(LAYERS)
    return [write_store(root / str(number), number, codec, range(6), "image") for number in range(2)]


def composed(terms: list[Any], side: Any, batch: ImageBatch) -> torch.Tensor:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(8, 8))
    return compose(student, terms, side, batch.pixels[:1], 8, 6).loss(batch)[0]


@pytest.mark.parametrize(
    "term",
    [
        {"type": "fitnet", "at": "0", "teacher_at": "maps", "teacher": 1},
        {"type": "common_space", "at": "0", "teacher_at": "maps", "dimension": 4},
    ],
)
def test_losses_see_the_teachers_features_standardised(stores: list[LabelStore], term: dict[str, Any]) -> None:
    paths = [{"path": store.path} for store in stores]
    mix = LabelMix(stores, MixConfig.model_validate({"stores": paths, "rule": "apart"}))
    rows = np.arange(6)
    labels = mix.labels_of(rows, rows * 0, rows * 0 + 1)
    assert isinstance(labels, ApartLabels)
    batch = ImageBatch(torch.randn(6, 1, 4, 4), torch.arange(6), labels, indices=torch.arange(6))
    asked, plain = ([TERMS.validate_python({**term, "standardise_teacher": on})] for on in (True, False))

    def side(moments: Any) -> StoredTeachers:
        return StoredTeachers(mix.codecs, paths_apart(asked, 2), moments)

    found = composed(asked, side(mix.moments), batch)
    # The same by hand: of all six samples, each channel of the maps has mean 0 and deviation 1 then.
    parts = []
    for part in labels.parts:
        assert isinstance(part, FeatureLabels)
        maps = part.layer("maps").reshape(6, 3, 4)
        mean, spread = maps.mean((0, 2), keepdim=True), maps.std((0, 2), correction=0, keepdim=True)
        features = torch.cat([((maps - mean) / spread).reshape(6, 12), part.layer("vector")], 1)
        parts.append(FeatureLabels(features, part.layers))
    by_hand = ImageBatch(batch.pixels, batch.targets, ApartLabels(tuple(parts)), indices=batch.indices)
    torch.testing.assert_close(found, composed(plain, side(()), by_hand), rtol=1e-4, atol=1e-4)
    assert float((found - composed(plain, side(()), batch)).detach().abs()) > 1e-2
    with pytest.raises(ConfigError, match="kd store compact"):
        composed(asked, side(()), batch)


def test_one_store_and_channels_that_never_vary() -> None:
    codec = FeatureCodec.of_shapes((("vector", (2,)),))
    labels = FeatureLabels(torch.tensor([[1.0, 7.0], [3.0, 7.0]]), codec.layers)
    moments = layer_moments(labels, codec.shape_of())
    batch = ImageBatch(torch.randn(2, 1, 4, 4), torch.arange(2), labels, indices=torch.arange(2))
    given = {"type": "rkd", "at": "2", "teacher_at": "vector"}
    asked, plain = ([TERMS.validate_python({**given, "standardise_teacher": on})] for on in (True, False))
    found = composed(asked, StoredTeacher(codec, teacher_paths(asked), moments), batch)
    same = FeatureLabels(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), codec.layers)
    wanted = composed(plain, StoredTeacher(codec, teacher_paths(plain)), ImageBatch(batch.pixels, batch.targets, same))
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="does not look at"):
        TERMS.validate_python({"type": "amtml", "at": "0", "standardise_teacher": True})
