"""What the labels of views weigh on disk, and how fast they are read, on one core.

`bytes_per_view_imagenet_top10`: top-10 of 1,000 classes in 8 bits with the parameters of random crops, flips, two
operations of RandAugment, erasure of a quarter of the views, and mixup or cutmix of each; 50 views an image, after
which more taught no better in the literature (ml-dr: the same accuracy with 50 and 400). `bytes_per_view_cifar`: all 10
classes in 8 bits with padded crops and flips; 200 views an image (the literature: 800). Both count everything that lies
in the store's folder, divided by its views: keys, names, offsets, schemas, index, manifest, receipts, card; but `plan/`
is no part of a store. Names are as long as ImageNet's. Units have 256 (CIFAR: 220) images; other numbers of views
are in the details. `kviews_per_s`: thousands of views a second from the ImageNet store in batches of 256 random images,
one view of each, as training reads them: parameters unpacked, labels decoded to tensors.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcore.config.views import Mix, PadCrop, RandAugment, RandomResizedCrop, ViewPolicy
from kdcore.data.views import pack_views, views_of
from kdcore.labels import Codec, DenseCodec, TopKCodec
from kdcore.labels.views.spec import ViewSpec
from kdcore.store import LabelStore, ShardRow
from tests.benchmarks.harness import emit, progress
from tests.benchmarks.label_speed import best
from tests.benchmarks.stores import make_store

IMAGENET = ViewPolicy(
    crop=RandomResizedCrop(), flip=0.5, rand_augment=RandAugment(), erase=0.25, mix=Mix(mixup=0.2, cutmix=1.0)
)
CIFAR = ViewPolicy(crop=PadCrop(), flip=0.5)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOP10, DENSE = TopKCodec(10, 1000, 8), DenseCodec(10, 8)
# Name, policy, size, codec, images of a unit, units, numbers of views; the headline's number is the first one.
STORES = (
    ("imagenet_top10", IMAGENET, 224, TOP10, 256, 8, (50, 1, 32, 100, 200)),
    ("cifar", CIFAR, 32, DENSE, 220, 8, (200, 1, 32, 50, 100)),
)
READ, BATCH = 2048, 256


def units_of(spec: ViewSpec, codec: Codec, images: int, units: int) -> Iterator[list[ShardRow]]:
    """`units` work units of so many images each; labels are random, and so are keys."""
    generator = np.random.default_rng(0)
    for number in range(units):
        keys = [generator.bytes(16) for _ in range(images)]
        yield unit_rows(number, keys, spec, codec, torch.Generator().manual_seed(number))


def unit_rows(
    number: int, keys: Sequence[bytes], spec: ViewSpec, codec: Codec, generator: torch.Generator
) -> list[ShardRow]:
    """The rows of one unit."""
    packed, lengths = pack_views(spec.policy, views_of(spec.policy, keys, keys))
    views = np.split(packed, np.cumsum(lengths)[:-1])
    rows = []
    for place, (key, parameters) in enumerate(zip(keys, views, strict=True)):
        logits = 3 * torch.randn(spec.per_image, codec.num_classes, generator=generator)
        encoded = codec.encode(logits, np.zeros(spec.per_image, np.uint64))
        columns = {**codec.pack([encoded], [None])[0], "views": parameters}
        name = f"n{number:08d}/n{number:08d}_{place:05d}.JPEG"
        rows.append(ShardRow(key, name, 1, columns, target=place % codec.num_classes))
    return rows


def weigh(path: Path, store: LabelStore) -> dict[str, Any]:
    """Bytes a view of all files of the store, and of its columns."""
    total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    columns = {name: round(size, 3) for name, size in store.bytes_per_label().items() if name != "total"}
    return {"bytes_per_view": round(total / store.num_labels, 3), "columns": columns}


def read_speed(store: LabelStore, at_once: int = 1) -> float:
    """Views a second, in batches of random images with `at_once` views of each."""
    generator = np.random.default_rng(1)
    spec = store.view_spec
    assert spec is not None
    rows = np.repeat(generator.integers(0, store.num_rows, READ // at_once), at_once)
    views = generator.integers(0, spec.per_image, len(rows))

    def read() -> None:
        for first in range(0, len(rows), BATCH):
            part = slice(first, first + BATCH)
            store.views_of(rows[part], views[part])
            store.labels_of(rows[part], views[part], views[part] + 1)

    return len(rows) / best(read, 7)


def main() -> None:
    """Measure, and print the JSON line."""
    torch.set_num_threads(1)
    weights: dict[str, dict[int, dict[str, Any]]] = {}
    speeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        for name, policy, size, codec, images, units, numbers in STORES:
            weights[name] = {}
            for per_image in numbers:
                spec = ViewSpec(policy.model_copy(update={"per_image": per_image}), size, MEAN, STD)
                path = Path(folder) / f"{name}-{per_image}"
                made = units_of(spec, codec, images, units)
                store = make_store(path, codec, made, kind="image", views=spec.to_json())
                weights[name][per_image] = weigh(path, store)
                progress(f"{name}, {per_image} views an image: {weights[name][per_image]}")
                if per_image == numbers[0]:
                    speeds[name] = round(read_speed(store))
                    speeds[f"{name}, 4 views of an image"] = round(read_speed(store, 4))
                    progress(f"views a second: {speeds}")
    headline = {
        f"bytes_per_view_{name}": next(iter(found.values()))["bytes_per_view"] for name, found in weights.items()
    }
    headline["kviews_per_s"] = round(speeds["imagenet_top10"] / 1000, 1)
    emit("view_labels", headline, ["python", "-m", "tests.benchmarks.view_labels"], stores=weights, views_per_s=speeds)


if __name__ == "__main__":
    main()
