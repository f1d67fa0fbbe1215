"""Made-up data and weights for recipes whose own are the user's to give, small, and of the same kind."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from kdcore.models.cifar_resnet import CifarResNet


def picture(generator: np.random.Generator, side: int, kind: str) -> bytes:
    """Noise, encoded."""
    file = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (side, side + 2, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def save_weights(model: nn.Module, path: Path) -> str:
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return str(path)


def parquet(folder: Path, side: int) -> list[str]:
    """Pictures of all ten classes, and some held out."""
    generator = np.random.default_rng(0)
    paths = {}
    for split, count in (("train", 16), ("test", 10)):
        images = [{"bytes": picture(generator, side, "PNG"), "path": None} for _ in range(count)]
        paths[split] = folder / f"{split}.parquet"
        pq.write_table(pa.table({"image": images, "label": pa.array(np.arange(count) % 10)}), paths[split])
    return [f"data.path={paths['train']}", f"data.heldout={paths['test']}"]


def cifar10(folder: Path) -> list[str]:
    """Parquet of PNG, and a ResNet-56 that has learnt nothing."""
    data = parquet(folder, 32)
    torch.manual_seed(0)
    weights = save_weights(CifarResNet(10, 3, depth=56), folder / "teacher.safetensors")
    return [*data, f"teacher.path={weights}"]


def imagenet(folder: Path) -> list[str]:
    """Folders of two classes of JPEG, a small teacher of timm, pictures of 64 pixels and two views, on this machine."""
    import timm

    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 4)):
        for name in ("n01440764", "n01443537"):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number}.JPEG").write_bytes(picture(generator, 40 + number, "JPEG"))
    torch.manual_seed(0)
    weights = save_weights(timm.create_model("convnext_atto", num_classes=2), folder / "teacher.safetensors")
    teacher = [f"teacher.path={weights}", "teacher.name=convnext_atto", "teacher.kwargs={}", "student.name=resnet18"]
    data = [f"data.path={folder / 'train'}", f"data.heldout={folder / 'val'}", "data.size=64", "labels.codec.k=2"]
    cluster = {"address": "local", "cpus_per_replica": 1, "gpus_per_replica": 0, "cpus_per_worker": 1}
    cluster |= {"gpus_per_worker": 0, "replicas": 2, "resource_deadline_seconds": 60, "max_failures": 0}
    views = ["data.views.per_image=2", "training.micro_batch_size=2"]
    return [*data, *teacher, *views, *(f"cluster.{name}={value}" for name, value in cluster.items())]


def mnist(folder: Path) -> list[str]:
    """Parquet of PNG, which the recipe reads as grey."""
    return parquet(folder, 28)


def stories(folder: Path) -> list[str]:
    """A teacher of a few thousand weights that writes eight texts, and three real ones."""
    from tests.support.tiny_teacher import write_teacher

    write_teacher(folder / "teacher")
    (folder / "real.jsonl").write_text('{"text": "the cat sat on a mat"}\n' * 3)
    teacher = [f"teacher.{name}={folder / 'teacher'}" for name in ("path", "tokenizer")]
    data = [f"data.{name}={folder / 'real.jsonl'}" for name in ("path", "heldout")]
    made = {"samples": 8, "unit_samples": 4, "max_tokens": 16, "batch": 4}
    return [
        *teacher,
        *data,
        "teacher.context=64",
        "teacher.overlap=8",
        *(f"synthesis.{name}={value}" for name, value in made.items()),
    ]


MATERIAL: dict[str, Callable[[Path], list[str]]] = {
    "cifar10": cifar10,
    "cifar10-data-free": cifar10,
    "imagenet": imagenet,
    "mnist-data-free": mnist,
    "mnist-hinton": mnist,
    "stories-data-free": stories,
}
