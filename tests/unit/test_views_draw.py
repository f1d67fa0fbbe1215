"""Draws of views: functions of (policy, key, number, unit) alone, with the distributions that a policy asks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import beta, binomtest, chisquare

from kdcore.config.views import ColorJitter, Mix, PadCrop, RandAugment, RandomResizedCrop, ViewPolicy
from kdcore.data.views import CUTMIX, MIXUP, UNMIXED, View, Views, draw_views, own_shares, partner_rows, views_of
from kdcore.data.views.beta import beta_edges
from kdcore.data.views.partners import prefixes, unambiguous
from kdcore.errors import DataError, LabelError
from kdcore.labels.views import layout_of
from kdcore.labels.views.fields import OPS
from tests.support.views import CIFAR, FULL, keys_of, policies

LEVEL = 1e-6


@settings(max_examples=20, deadline=None)
@given(policies(), st.randoms(use_true_random=False))
def test_a_view_does_not_depend_on_its_batch(policy, random):
    keys = keys_of(4)
    views = views_of(policy, keys, keys)
    rows = [row for row in range(len(views)) if random.random() < 0.7]
    random.shuffle(rows)
    numbers = np.array([row % policy.per_image for row in rows], np.int64)
    unit = keys.copy()
    random.shuffle(unit)
    again = draw_views(policy, [keys[row // policy.per_image] for row in rows], numbers, unit)
    assert again.equal(views[np.array(rows, np.int64)])


@settings(max_examples=40, deadline=None)
@given(policies())
def test_parameters_are_in_range(policy):
    keys = keys_of(20)
    views = views_of(policy, keys, keys)
    layout = layout_of(policy)
    groups = (*layout.every, *layout.erased, *layout.mixed, *layout.cut)
    fields = {field.name: field.steps for word in groups for field in word.fields}
    for name, steps in fields.items():
        assert getattr(views, name).max(initial=0) < steps
    used = {*fields, "erased", "mixed"}
    assert all(not getattr(views, name).any() for name in Views.zeros(1).__dict__ if name not in used)
    assert not views.erase_area[views.erased == 0].any()
    assert not views.partner[views.mixed == UNMIXED].any()
    assert not views.cut_x[views.mixed != CUTMIX].any()


def test_draws_are_what_they_were():
    """Labels of finished stores belong to these views: another hash would draw others for the units to come."""
    key = bytes(range(16))
    view = draw_views(FULL, [key], np.array([7]), [key, bytes([9] * 16)]).view(0)
    assert view == PINNED


PINNED = View(
    area=2,
    ratio=55,
    x=195,
    y=114,
    brightness=57,
    contrast=59,
    saturation=8,
    ops=(0, 4),
    mixed=1,
    share=198,
    partner=38806292745,
)


def test_seed_key_and_number_all_count():
    keys = keys_of(2)
    base = draw_views(FULL, keys, np.array([0, 0]), keys)
    assert not base.equal(draw_views(FULL, keys, np.array([1, 1]), keys))
    assert not base.equal(draw_views(FULL.model_copy(update={"seed": 1}), keys, np.array([0, 0]), keys))
    assert base.view(0) != base.view(1)


def test_a_setting_leaves_the_other_draws_alone():
    keys = keys_of(30)
    with_flip = views_of(CIFAR, keys)
    without = views_of(CIFAR.model_copy(update={"flip": 0.0}), keys)
    assert np.array_equal(with_flip.x, without.x)
    assert np.array_equal(with_flip.y, without.y)


def likely(hits, probability):
    return binomtest(int(np.sum(hits)), np.size(hits), probability).pvalue > LEVEL


def even(values, steps):
    return chisquare(np.bincount(values.ravel(), minlength=steps)).pvalue > LEVEL


@pytest.fixture(scope="module")
def many():
    keys = keys_of(400)
    return views_of(FULL, keys, keys), keys


def test_places_and_flips_are_even(many):
    views, _ = many
    for name, steps in (("x", 256), ("y", 256), ("area", 256), ("ratio", 64), ("brightness", 64), ("flip", 2)):
        assert even(getattr(views, name), steps), name
    assert even(views.x.astype(np.int64) // 16 * 16 + views.y // 16, 256)
    assert likely(views.flip, 0.5)
    assert abs(np.corrcoef(views.flip, views.x)[0, 1]) < 0.04


def test_operations_are_even_and_so_are_signs(many):
    views, _ = many
    names = list(dict.fromkeys(name for name, _ in OPS))
    assert len(OPS) == 23
    assert len(names) == 14
    place = np.array([names.index(name) for name, _ in OPS])
    assert even(place[views.ops[:, 0]] * 14 + place[views.ops[:, 1]], 196)
    signs = np.array([sign for _, sign in OPS])
    assert likely(signs[views.ops[place[views.ops] == names.index("rotate")]] == 1, 0.5)


def test_how_many_are_erased_and_mixed(many):
    views, _ = many
    assert likely(views.erased, 0.25)
    assert likely(views.mixed == CUTMIX, 0.5)
    assert (views.mixed > UNMIXED).all()
    half = FULL.model_copy(update={"mix": Mix(cutmix=1.0, mixup=0.2, probability=0.3, cutmix_share=0.2)})
    views = views_of(half, many[1], many[1])
    assert likely(views.mixed != UNMIXED, 0.3)
    assert likely(views.mixed == CUTMIX, 0.06)


def test_partners_are_the_other_images_of_the_unit(many):
    views, keys = many
    rows = partner_rows(views, keys)
    own = np.arange(len(keys)).repeat(FULL.per_image)
    assert (rows != own).all()
    assert even(rows, len(keys))
    few = keys[:3]
    rows = partner_rows(views_of(FULL, few, few), few).reshape(3, -1)
    assert [set(row) for row in rows.tolist()] == [{1, 2}, {0, 2}, {0, 1}]


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 3.0, 60.0])
def test_shares_are_beta(alpha, many):
    edges = beta_edges(alpha, 256)
    wanted = beta(alpha, alpha).cdf(np.arange(1, 256) / 256)
    np.testing.assert_allclose(edges, wanted, rtol=0, atol=1e-9)
    policy = ViewPolicy(per_image=50, mix=Mix(mixup=alpha))
    shares = views_of(policy, many[1], many[1]).share
    for edge in (1, 60, 128, 200, 255):
        assert likely(shares < edge, wanted[edge - 1])


def test_a_unit_of_one_image_mixes_nothing():
    key = keys_of(1)
    for unit in (key, [], key * 3):
        views = views_of(FULL, key, unit)
        assert not views.mixed.any()
        assert partner_rows(views, unit).tolist() == [-1] * FULL.per_image


def test_an_ambiguous_prefix_is_never_drawn_nor_resolved():
    keys = keys_of(4)
    twin = keys[1][:5] + bytes(11)
    unit = [*keys, twin]
    assert unambiguous(np.frombuffer(b"".join(unit), np.uint8).reshape(-1, 16)).tolist() == sorted(
        int.from_bytes(keys[i][:5], "big") for i in (0, 2, 3)
    )
    views = views_of(FULL, unit, unit)
    assert set(partner_rows(views, unit).tolist()) == {0, 2, 3}
    lost = Views.of([View(mixed=MIXUP, partner=int.from_bytes(twin[:5], "big"))])
    with pytest.raises(LabelError, match="2 of 5 keys begin with"):
        partner_rows(lost, unit)
    with pytest.raises(LabelError, match="0 of 1 keys begin with"):
        partner_rows(lost, keys[:1])
    with pytest.raises(LabelError, match="0 of 0 keys"):
        partner_rows(lost, [])


def test_prefixes_are_the_first_forty_bits():
    assert prefixes(np.arange(16, dtype=np.uint8)[None]).tolist() == [0x0001020304]


def test_own_shares():
    views = Views.of([View(), View(mixed=MIXUP, share=63), View(mixed=CUTMIX, share=127, cut_x=32, cut_y=32)])
    # Half of 10 x 10 pixels is a square of 7, of which an even side of 6 is cut out.
    np.testing.assert_allclose(own_shares(views, 10), [1, 127 / 512, 1 - 36 / 100])


def test_keys_and_numbers_belong_together():
    with pytest.raises(DataError, match="2 keys and numbers of shape"):
        draw_views(CIFAR, keys_of(2), range(3))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RandomResizedCrop(scale=(0.5, 0.1)), "least first"),
        (lambda: RandomResizedCrop(scale=(0.5, 1.1)), "at most the whole image"),
        (lambda: Mix(), "needs the alpha"),
        (lambda: ColorJitter(), "does nothing"),
        (lambda: PadCrop(padding=0), "greater than or equal to 1"),
        (lambda: RandAugment(magnitude=31), "less than or equal to 30"),
        (lambda: ViewPolicy.model_validate({"rotate": 1}), "Extra inputs"),
        (lambda: ViewPolicy(flip=1.5), "less than or equal to 1"),
    ],
)
def test_policies_that_cannot_be(make, match):
    with pytest.raises(ValidationError, match=match):
        make()


def test_a_policy_survives_json():
    assert ViewPolicy.model_validate_json(FULL.model_dump_json()) == FULL
