"""Pixels of views: by hand, against torchvision, and the same alone as in any batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, RandAugment, functional

from kdcore.config.views import ColorJitter, Mix, PadCrop, RandomResizedCrop, ViewPolicy
from kdcore.data.views import CUTMIX, MIXUP, View, Views, apply_views, colour, render_views
from kdcore.data.views.boxes import crop_boxes, cut_boxes, erase_boxes
from kdcore.data.views.operations import apply_operation
from kdcore.errors import DataError
from kdcore.labels.views.fields import OPS
from tests.support.views import CIFAR, FULL, MEAN, PLAIN, STD, drawn, images_of, policies

RAMP = np.arange(9, dtype=np.uint8).reshape(3, 3, 1)


def render(policy, image, view, partner=None, size=3, mean=(0.5,)):
    pixels = render_views(policy, [image], Views.of([view]), [partner], mean, size)
    assert pixels.dtype == torch.uint8
    return pixels[0, 0].tolist()


@settings(max_examples=25, deadline=None)
@given(policies(), st.sampled_from([1, 3]))
def test_a_view_looks_the_same_alone_and_in_any_batch(policy, channels):
    images, views, partners = drawn(policy, images_of(3, channels=channels))
    mean = MEAN[:channels]
    whole = render_views(policy, images, views, partners, mean, 16)
    order = np.random.default_rng(0).permutation(len(views))[:5]
    for row in order.tolist():
        alone = render_views(policy, images[row : row + 1], views[row : row + 1], partners[row : row + 1], mean, 16)
        assert torch.equal(alone[0], whole[row])


def test_threads_and_layouts_change_nothing():
    images, views, partners = drawn(FULL, images_of(4, 60, 90))
    whole = render_views(FULL, images, views, partners, MEAN, 24)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        others = [np.asfortranarray(image) for image in images]
        for image in others:
            image.flags.writeable = False
        again = render_views(FULL, others, views, partners, MEAN, 24)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole, again)


def test_pad_crop_and_flip_by_hand():
    policy = ViewPolicy(crop=PadCrop(padding=1), flip=0.5)
    assert render(policy, RAMP, View(x=1, y=1)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert render(policy, RAMP, View(x=0, y=2)) == [[0, 3, 4], [0, 6, 7], [0, 0, 0]]
    assert render(policy, RAMP, View(x=2, y=0)) == [[0, 0, 0], [1, 2, 0], [4, 5, 0]]
    assert render(policy, RAMP, View(x=2, y=0, flip=1)) == [[0, 0, 0], [0, 2, 1], [0, 5, 4]]


def test_nothing_changes_without_settings():
    image = images_of(1, 20, 21)[0]
    pixels = apply_views(PLAIN, [image], Views.zeros(1), [None], MEAN, STD, 20)
    assert torch.equal(pixels, torch.from_numpy(normalised(image))[None])


def normalised(image):
    """The formula of `ImageDecoder`, which images without views go through."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    return (image.astype(np.float32).transpose(2, 0, 1) / 255 - mean) / std


def test_crop_boxes_by_hand():
    crop = RandomResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0))
    views = Views.of([View(), View(x=255, y=255), View(x=128)])
    # Half of 100 is 50 pixels a side, with 51 and 151 places.
    boxes = crop_boxes(crop, views, np.full(3, 100), np.full(3, 100))
    assert boxes.tolist() == [[0, 0, 50, 50], [50, 50, 50, 50], [0, 25, 50, 50]]
    wide = RandomResizedCrop(scale=(1.0, 1.0), ratio=(4.0, 4.0))
    assert crop_boxes(wide, views[:1], np.array([10]), np.array([12])).tolist() == [[0, 0, 5, 12]]


def test_crop_boxes_are_spread_as_asked():
    policy = FULL.model_copy(update={"per_image": 4000})
    _, views, _ = drawn(policy, images_of(1))
    boxes = crop_boxes(RandomResizedCrop(), views, np.full(4000, 300), np.full(4000, 400))
    shares = boxes[:, 2] * boxes[:, 3] / 120_000
    ratios = np.log(boxes[:, 3] / boxes[:, 2])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2]).max() == 300
    assert (boxes[:, 1] + boxes[:, 3]).max() == 400
    assert 0.07 < shares.min() < 0.1
    assert abs(shares.mean() - 0.53) < 0.02
    assert abs(ratios.mean()) < 0.03
    assert abs(ratios).max() < np.log(4 / 3) + 0.02


@pytest.mark.parametrize("flip", [0, 1])
def test_resized_crops_are_torchvisions(flip):
    policy = ViewPolicy(crop=RandomResizedCrop(), flip=1.0)
    for image in images_of(3, 30, 90):
        view = Views.of([View(area=80, ratio=20, x=100, y=30, flip=flip)])
        height, width = image.shape[:2]
        top, left, h, w = crop_boxes(policy.crop, view, np.array([height]), np.array([width]))[0].tolist()
        whole = torch.from_numpy(image).permute(2, 0, 1)
        wanted = functional.resized_crop(whole, top, left, h, w, [24, 24], antialias=True)
        wanted = functional.horizontal_flip(wanted) if flip else wanted
        found = render_views(policy, [image], view, [None], MEAN, 24)[0]
        assert (found.int() - wanted.int()).abs().max() <= 1


def test_other_sizes_are_resized_whole():
    policy = ViewPolicy(crop=PadCrop(padding=2))
    image = images_of(1, 30, 40)[0]
    whole = functional.resize(torch.from_numpy(image).permute(2, 0, 1), [16, 16], antialias=True)
    wanted = functional.pad(whole, [2])[:, 1:17, 4:20]
    found = render_views(policy, [image], Views.of([View(x=4, y=1)]), [None], MEAN, 16)[0]
    assert (found.int() - wanted.int()).abs().max() <= 1


def torchvision_operation(image: Tensor, name: str, sign: int, magnitude: int) -> Tensor:
    """One operation of torchvision's RandAugment, with its own table of magnitudes."""
    names = {name.lower(): name for name in RandAugment._AUGMENTATION_SPACE}
    name = names[name.replace("_", "").replace("saturation", "color")]
    magnitudes, signed = RandAugment._AUGMENTATION_SPACE[name]
    table = magnitudes(31, *image.shape[-2:])
    value = 0.0 if table is None else float(table[magnitude]) * (sign if signed else 1)
    nearest = InterpolationMode.NEAREST
    return RandAugment()._apply_image_or_video_transform(image, name, value, nearest, {torch.Tensor: None})


MOVED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


@pytest.mark.parametrize("code", range(len(OPS)), ids=[f"{name}{sign:+d}" for name, sign in OPS])
def test_every_operation_is_torchvisions(code):
    name, sign = OPS[code]
    images = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images_of(6, 32, 33)])
    images[5] = 77  # one colour, no contrast
    for magnitude in (0, 9, 17, 30):
        found = apply_operation(images, code, magnitude)
        wanted = torchvision_operation(images, name, sign, magnitude)
        apart = (found.int() - wanted.int()).abs()
        if name in MOVED:  # the nearest of two pixels may be the other one, by the last bit of a float
            assert (apart > 0).float().mean() < 0.002, magnitude
        else:
            assert apart.max() <= 1, magnitude
        for row in range(6):
            assert torch.equal(apply_operation(images[row : row + 1], code, magnitude)[0], found[row]), magnitude


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_torchvisions(name):
    images = images_of(8, 20, 21)
    policy = ViewPolicy(color_jitter=ColorJitter(**{name: 0.8}))
    steps = [0, 1, 20, 31, 32, 50, 62, 63]
    views = Views.of([View(**{name: step}) for step in steps])
    found = render_views(policy, images, views, [None] * 8, MEAN, 20)
    for row, step in enumerate(steps):
        by = 1 + 0.8 * (2 * step + 1 - 64) / 64
        whole = torch.from_numpy(images[row]).permute(2, 0, 1)
        wanted = getattr(functional, f"adjust_{name}")(whole, by)
        assert (found[row].int() - wanted.int()).abs().max() <= 1


def test_grey_stays_grey():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for by in (0, 100, 512, 1024, 2000):
        assert torch.equal(colour.saturation(grey, by), grey)
    assert torch.equal(colour.brightness(grey, 1024), grey)
    assert torch.equal(colour.contrast(grey, 1024), grey)


def test_erased_boxes():
    views = Views.of([View(erased=1), View(), View(erased=1, erase_area=63, erase_ratio=63, erase_x=63, erase_y=63)])
    boxes = erase_boxes(views, 20)
    assert boxes[1].tolist() == [0, 0, 0, 0]
    small, large = (math.sqrt((0.02 + 0.94 / 3 * step) * 400) for step in (1 / 128, 127 / 128))
    shape = math.exp(math.log(10 / 3) * 63 / 64 / 2)
    assert boxes[0].tolist() == [0, 0, round(small * shape), round(small / shape)]
    height, width = round(large / shape), min(20, round(large * shape))
    assert boxes[2].tolist() == [(20 - height + 1) * 63 // 64, (20 - width + 1) * 63 // 64, height, width]


def test_erasure_by_hand():
    """At size 3 the smallest box is one pixel; its colour is the mean's."""
    view = View(erased=1, erase_ratio=32, erase_x=32, erase_y=63)
    assert render(ViewPolicy(erase=0.5), RAMP, view) == [[0, 1, 2], [3, 4, 5], [6, 128, 8]]
    assert render(ViewPolicy(erase=0.5), RAMP, View()) == RAMP[..., 0].tolist()
    assert render(ViewPolicy(erase=0.5), RAMP, view, mean=(0.1,))[2] == [6, 26, 8]


def test_mixup_by_hand():
    policy = ViewPolicy(mix=Mix(mixup=0.2))
    other = np.full((3, 3, 1), 200, np.uint8)
    # 127 of 512 of the image, 385 of its partner, to the nearest.
    wanted = [[math.floor((127 * value + 385 * 200) / 512 + 0.5) for value in row] for row in RAMP[..., 0].tolist()]
    assert render(policy, RAMP, View(mixed=MIXUP, share=63), other) == wanted
    assert render(policy, RAMP, View(), other) == RAMP[..., 0].tolist()
    assert render(policy, RAMP, View(mixed=MIXUP, share=63), RAMP) == RAMP[..., 0].tolist()


def test_cutmix_by_hand():
    policy = ViewPolicy(mix=Mix(cutmix=1.0))
    image, other = np.zeros((4, 4, 1), np.uint8), np.full((4, 4, 1), 9, np.uint8)
    # A quarter is the image's own: a square of side 3.46, so 2 x 2 pixels about pixel 0 and the middle.
    corner = View(mixed=CUTMIX, share=63, cut_x=0, cut_y=32)
    assert cut_boxes(Views.of([corner]), 4).tolist() == [[1, 0, 2, 1]]
    rows = [[0, 0, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0]]
    assert render(policy, image, corner, other, 4) == rows


def test_a_partner_has_the_crop_and_the_flip_and_nothing_else():
    policy = FULL.model_copy(update={"mix": Mix(mixup=1.0)})
    plain = ViewPolicy(crop=policy.crop, flip=policy.flip)
    image, other = images_of(2, 40, 41)
    view = Views.of([View(area=90, x=40, y=200, flip=1, ops=(6, 1), erased=1, mixed=MIXUP, share=255)])
    alone = Views.of([View(area=90, x=40, y=200, flip=1, ops=(6, 1), erased=1)])
    own = render_views(policy, [image], alone, [None], MEAN, 16).int()
    cropped = render_views(plain, [other], view, [None], MEAN, 16).int()
    found = render_views(policy, [image], view, [other], MEAN, 16).int()
    assert torch.equal(found, (511 * own + cropped + 256) >> 9)


@pytest.mark.parametrize(
    ("image", "partner", "match"),
    [
        (np.zeros((4, 4), np.uint8), None, r"got \['uint8 \[4, 4\]'\]"),
        (np.zeros((4, 4, 3), np.float32), None, "float32"),
        (np.zeros((4, 4, 4), np.uint8), None, r"\[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.uint8), None, "1 of these views are mixed, and 0 of their partners"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 1), np.uint8), "as many channels"),
    ],
)
def test_images_that_are_none_are_refused(image, partner, match):
    view = Views.of([View(mixed=MIXUP)])
    with pytest.raises(DataError, match=match):
        render_views(ViewPolicy(mix=Mix(mixup=1.0)), [image], view, [partner], (0.5,) * 3, 4)


def test_every_view_needs_an_image():
    with pytest.raises(DataError, match="2 views need as many images and partners: 1, 1"):
        render_views(CIFAR, [RAMP], Views.zeros(2), [None], (0.5,), 3)
