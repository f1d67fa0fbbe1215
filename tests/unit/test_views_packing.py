"""The parameters of views as bytes of a row, and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.views import ColorJitter, Mix, PadCrop, RandAugment, ViewPolicy
from kdcore.data.views import MIXUP, View, Views, bytes_per_view, pack_views, unpack_views, views_of
from kdcore.errors import LabelError
from kdcore.labels.views import layout_of
from tests.support.views import CIFAR, FULL, PLAIN, keys_of, policies


@settings(max_examples=25, deadline=None)
@given(policies(), st.integers(0, 5), st.integers(0, 99))
def test_rows_are_packed_and_read_again(policy, rows, seed):
    keys = keys_of(rows, seed)
    views = views_of(policy, keys, keys)
    flat, lengths = pack_views(policy, views)
    assert (flat.dtype, len(flat), len(lengths)) == (np.uint8, lengths.sum(), rows)
    assert unpack_views(policy, flat, lengths).equal(views)
    chosen = np.random.default_rng(seed).integers(0, policy.per_image, rows)
    one_each = unpack_views(policy, flat, lengths, chosen)
    assert one_each.equal(views[np.arange(rows) * policy.per_image + chosen])


@settings(max_examples=25, deadline=None)
@given(policies(), st.data())
def test_any_parameters_in_range_survive(policy, data):
    """Also those that no draw gives: each field at its least and its largest."""
    layout = layout_of(policy)
    views = Views.zeros(policy.per_image, layout.num_ops)
    pick = st.sampled_from([0, 1])
    if policy.erase:
        views.erased[:] = [int(policy.erase == 1) or data.draw(pick) for _ in range(policy.per_image)]
    if policy.mix:
        kinds = [0, *([1] if policy.mix.mixup else []), *([2] if policy.mix.cutmix else [])]
        views.mixed[:] = [data.draw(st.sampled_from(kinds)) for _ in range(policy.per_image)]
    masks = {"every": views.flip >= 0, "erased": views.erased > 0, "mixed": views.mixed > 0, "cut": views.mixed > 1}
    for group, mask in masks.items():
        for field in (field for word in getattr(layout, group) for field in word.fields):
            column = getattr(views, field.name)
            values = np.where(mask, [data.draw(pick) * (field.steps - 1) for _ in range(policy.per_image)], 0)
            column[... if field.op is None else (slice(None), field.op)] = values
    flat, lengths = pack_views(policy, views)
    assert unpack_views(policy, flat, lengths).equal(views)


def test_bytes_by_hand():
    """Two views of a padding of 1: x and y below 3 and a flip below 2 are one number below 18, in 5 bits."""
    policy = ViewPolicy(per_image=2, crop=PadCrop(padding=1), flip=0.5)
    views = Views.of([View(x=2, y=1, flip=1), View(x=1, y=2)])
    first, second = 2 + 3 * 1 + 9 * 1, 1 + 3 * 2
    flat, lengths = pack_views(policy, views)
    assert flat.tolist() == [(first + (second << 5)) & 255, second >> 3]
    assert lengths.tolist() == [2]


def test_bytes_with_flags_by_hand():
    """Flags of both views come first, then what only the second has."""
    policy = ViewPolicy(per_image=2, mix=Mix(mixup=0.2))
    views = Views.of([View(), View(mixed=MIXUP, partner=0x123456789A, share=0xBC)])
    flat, lengths = pack_views(policy, views)
    number = 0b10 + (0x123456789A << 2) + (0xBC << 42)
    assert bytes(flat) == number.to_bytes(7, "little")
    assert lengths.tolist() == [7]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (PLAIN, 0),
        (CIFAR, 1),  # 9 * 9 * 2 places and flips
        (ViewPolicy(flip=0.5), 1),  # one bit, alone in its row
        (FULL.model_copy(update={"color_jitter": None}), 13),
    ],
)
def test_a_view_takes_few_bytes(policy, expected):
    assert bytes_per_view(policy) == expected
    keys = keys_of(400)
    flat, _ = pack_views(policy, views_of(policy, keys, keys))
    assert len(flat) / (400 * policy.per_image) == pytest.approx(expected, rel=0.005)


def test_what_a_setting_costs():
    jitter = ViewPolicy(per_image=8, color_jitter=ColorJitter(brightness=0.4))
    assert bytes_per_view(jitter) == 6 / 8
    assert bytes_per_view(ViewPolicy(per_image=8, rand_augment=RandAugment(ops=2))) == 10 / 8  # 23^2 codes
    assert bytes_per_view(ViewPolicy(per_image=8, erase=1.0)) == 3
    assert bytes_per_view(ViewPolicy(per_image=8, mix=Mix(cutmix=1.0))) == (1 + 48 + 12) / 8


def row(policy, images=1):
    keys = keys_of(images)
    return pack_views(policy, views_of(policy, keys, keys))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_row_of_another_length_is_refused(change):
    flat, lengths = row(FULL, 3)
    lengths[1] += change
    with pytest.raises(LabelError, match=r"rows of|number of bytes"):
        unpack_views(FULL, flat, lengths)
    with pytest.raises(LabelError, match="number of bytes"):
        unpack_views(FULL, np.zeros(lengths.sum(), np.uint8), lengths)


def test_a_row_of_another_policy_is_refused():
    flat, lengths = row(CIFAR, 2)
    with pytest.raises(LabelError, match="made with other views"):
        unpack_views(FULL, flat, lengths)
    with pytest.raises(LabelError, match="a row holds 8 views"):
        pack_views(CIFAR, views_of(CIFAR, keys_of(1))[:-1])
    with pytest.raises(LabelError, match="of another policy"):
        pack_views(FULL, Views.zeros(50))
    with pytest.raises(LabelError, match="does not allow"):
        pack_views(PLAIN, Views.of([View(mixed=MIXUP)]))
    with pytest.raises(LabelError, match="'x' of a view is below 9"):
        pack_views(ViewPolicy(crop=PadCrop()), Views.of([View(x=9)]))


def test_numbers_out_of_range_are_refused():
    """The byte of a CIFAR view is below 162."""
    flat, lengths = row(CIFAR)
    flat[3] = 162
    with pytest.raises(LabelError, match="out of range"):
        unpack_views(CIFAR, flat, lengths)


@pytest.mark.parametrize("chosen", [-1, 8])
def test_a_view_that_is_not_there_is_refused(chosen):
    flat, lengths = row(CIFAR)
    with pytest.raises(LabelError, match=r"has the views 0 \.\. 7"):
        unpack_views(CIFAR, flat, lengths, np.array([chosen]))


def test_views_as_arrays():
    views = views_of(FULL, keys_of(2), keys_of(2))
    assert len(views) == 100
    assert Views.concat([views[:30], views[30:]]).equal(views)
    assert Views.of([views.view(i) for i in range(100)]).equal(views)
    assert views[np.array([3, 3])].view(1) == views.view(3)
    assert not views[:50].equal(views[50:])
