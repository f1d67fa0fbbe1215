"""Policies of views, drawn ones, and images to render them of."""

import numpy as np
from hypothesis import strategies as st

from kdcore.config.views import ColorJitter, Mix, PadCrop, RandAugment, RandomResizedCrop, ViewPolicy
from kdcore.data.views import Views, partner_rows, views_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FULL = ViewPolicy(
    per_image=50,
    crop=RandomResizedCrop(),
    flip=0.5,
    color_jitter=ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
    rand_augment=RandAugment(),
    erase=0.25,
    mix=Mix(mixup=0.2, cutmix=1.0),
)
CIFAR = ViewPolicy(per_image=8, crop=PadCrop(), flip=0.5)
PLAIN = ViewPolicy()


def keys_of(count: int, seed: int = 0) -> list[bytes]:
    """Keys of different images."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(16) for _ in range(count)]


@st.composite
def policies(draw: st.DrawFn) -> ViewPolicy:
    """Any policy of a few views."""
    chance = st.sampled_from([0.0, 0.3, 1.0])
    alpha = st.sampled_from([None, 0.2, 1.0])
    mixup, cutmix = draw(alpha), draw(alpha)
    jitter = ColorJitter.model_construct(brightness=draw(chance), contrast=draw(chance), saturation=draw(chance))
    crops = [None, PadCrop(padding=draw(st.integers(1, 127))), RandomResizedCrop()]
    ops = draw(st.integers(0, 4))
    return ViewPolicy(
        per_image=draw(st.integers(1, 9)),
        seed=draw(st.integers(0, 2**63 - 1)),
        crop=draw(st.sampled_from(crops)),
        flip=draw(chance),
        color_jitter=jitter if jitter.brightness or jitter.contrast or jitter.saturation else None,
        rand_augment=RandAugment(ops=ops, magnitude=draw(st.integers(0, 30))) if ops else None,
        erase=draw(chance),
        mix=Mix(mixup=mixup, cutmix=cutmix, probability=draw(st.sampled_from([0.4, 1.0]))) if mixup or cutmix else None,
    )


def images_of(count: int, low: int = 8, high: int = 40, channels: int = 3) -> list[np.ndarray]:
    """Decoded images of several sizes: smooth ones, so that neighbouring pixels are alike, with some noise."""
    rng, images = np.random.default_rng(7), []
    for _ in range(count):
        height, width = rng.integers(low, high, 2)
        waves = np.sin(rng.normal(size=channels) + np.linspace(0, 4, height)[:, None, None] * rng.normal(size=channels))
        waves = waves + np.cos(np.linspace(0, 5, width)[:, None] * rng.normal(size=channels))
        noisy = 127 + 50 * waves + rng.normal(scale=12, size=(height, width, channels))
        images.append(noisy.clip(0, 255).astype(np.uint8))
    return images


def drawn(policy: ViewPolicy, images: list[np.ndarray]) -> tuple[list[np.ndarray], Views, list[np.ndarray | None]]:
    """All views of some images of one unit, with the image and the partner of each."""
    keys = keys_of(len(images))
    views = views_of(policy, keys, keys)
    partners = [images[row] if row >= 0 else None for row in partner_rows(views, keys).tolist()]
    return [image for image in images for _ in range(policy.per_image)], views, partners
