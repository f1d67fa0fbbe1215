"""What a distilling step costs an image student: labels of stored views, beside plain training and a live teacher.

`cached_vs_plain_step`: a step on views and labels read from a store, over one of cross-entropy on views that are drawn
for it: both crop and flip in the same way, on the same model, in turns; medians. `live_vs_cached`: images a second on
cached labels over those with a live teacher, which sees the same drawn views, in the same run. A step is all of it:
batch made in the loop's own thread, forward, backward, update. ResNet-56 teaches ResNet-20, CIFAR-size noise images.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from cluster.labelling.replica.replica import Replica
from cluster.labelling.run import label_store
from cluster.labelling.twin import InProcessPool
from kdcore.config import Recipe
from kdcore.data.sources import open_source
from kdcore.labels.soft_labels import DenseLabels
from kdcore.models.image import build_image_model, save_image_model
from kdcore.store import open_store
from kdcore.training.engines import Engine, make_engine
from kdcore.training.image_samples import ImageSamples, image_samples
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks, local_device
from tests.benchmarks.harness import emit, progress

CLASSES, SIDE = 10, 32
VIEWS = {"per_image": 2, "crop": {"type": "pad"}, "flip": 0.5}


def write_images(path: Path, count: int) -> None:
    """Parquet of encoded noise images, each of a class."""
    from PIL import Image

    generator = np.random.default_rng(0)
    images: list[dict[str, bytes]] = []
    for pixels in generator.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        images.append({"bytes": file.getvalue()})
    labels = pa.array(np.arange(count) % CLASSES)
    pq.write_table(pa.table({"image": images, "label": labels}), path)


def recipe_of(folder: Path, batch: int) -> Recipe:
    """ResNet-56 to ResNet-20 on the images in `folder`."""
    network: dict[str, Any] = {"type": "image_classifier", "source": "cifar_resnet"}
    return Recipe.model_validate(
        {
            "name": "vision-step",
            "runs": str(folder / "runs"),
            "data": {
                "type": "image_parquet", "path": str(folder / "images.parquet"), "heldout_fraction": 0.0,
                "size": SIDE, "views": VIEWS,
            },
            "teacher": {**network, "kwargs": {"depth": 56}, "path": str(folder / "teacher"), "batch_size": batch},
            "labels": {"codec": {"type": "dense", "bits": 8}, "unit_bytes": 1_000_000, "probe_labels": 64},
            "student": {**network, "kwargs": {"depth": 20}},
            "training": {"steps": 1, "batch_size": batch, "loss": {"hard_weight": 0.1}},
        }
    )  # fmt: skip


@contextmanager
def in_process(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
    """A replica in this process."""
    yield InProcessPool(lambda: Replica(recipe.model_dump_json(), str(recipe.store_path)))


@dataclass
class Arms:
    """Steps of one student, each on other labels."""

    engine: Engine
    teacher: nn.Module
    device: torch.device
    batch: int
    cached: ImageSamples
    drawn: ImageSamples

    def numbers(self, number: int, samples: ImageSamples) -> np.ndarray:
        """The samples of a step, in the view of its epoch."""
        positions = np.arange(number * self.batch, (number + 1) * self.batch)
        epochs, places = np.divmod(positions, len(samples))
        return places + len(samples) * (epochs % 2)

    def cached_step(self, number: int) -> None:
        """On the labels of a store."""
        self._step(self.cached.batch(self.numbers(number, self.cached)).to(self.device))

    def plain_step(self, number: int) -> None:
        """On hard labels."""
        self._step(self.drawn.batch(self.numbers(number, self.drawn)).to(self.device))

    def live_step(self, number: int) -> None:
        """On what the teacher says of the same pixels now."""
        batch = self.drawn.batch(self.numbers(number, self.drawn)).to(self.device)
        with torch.no_grad():
            labels = DenseLabels(self.teacher(batch.pixels).float().log_softmax(1))
        self._step(replace(batch, labels=labels))

    def _step(self, batch: Any) -> None:
        self.engine.accumulate(batch, 1 / self.batch, last=True)
        self.engine.update(1e-3, lambda norm: True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def timed(work: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    work(number)
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.vision_step", description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--steps", type=int, default=25, help="measured of each arm, after two to warm up")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as name:
        folder = Path(name)
        write_images(folder / "images.parquet", arguments.images)
        recipe = recipe_of(folder, arguments.batch)
        assert recipe.teacher is not None
        assert recipe.student is not None
        assert recipe.training is not None
        torch.manual_seed(0)
        network = recipe.teacher.model_copy(update={"path": None})
        teacher = build_image_model(network, CLASSES, 3).eval()  # pyright: ignore[reportArgumentType]
        save_image_model(teacher, network, CLASSES, 3, folder / "teacher")  # pyright: ignore[reportArgumentType]
        began = time.perf_counter()
        label_store(recipe, progress, in_process)
        labelled = VIEWS["per_image"] * arguments.images / (time.perf_counter() - began)
        device, student = local_device(), build_image_model(recipe.student, CLASSES, 3)  # pyright: ignore
        engine = make_engine(DistillModel(student, recipe.training, True), recipe.training, Ranks(0, 1, device), False)
        source = open_source(recipe.data)
        cached, drawn = image_samples(recipe, source, True), image_samples(recipe, source, False, endless=True)
        arms = Arms(engine, teacher.to(device), device, arguments.batch, cached, drawn)
        steps = {"plain": arms.plain_step, "cached": arms.cached_step, "live": arms.live_step}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(arguments.steps + 2):
            for name, step in steps.items():
                took = timed(step, number)
                if number >= 2:
                    seconds[name].append(took)
        makes = {
            name: timed(lambda number, samples=samples: samples.batch(arms.numbers(number, samples)) and None, 1)
            for name, samples in (("cached", cached), ("plain", drawn))
        }
        engine.close()
        weights = open_store(recipe.store_path).bytes_per_label()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    emit(
        "vision_step",
        {
            "cached_vs_plain_step": round(medians["cached"] / medians["plain"], 3),
            "live_vs_cached": round(medians["live"] / medians["cached"], 3),
        },
        ["python", "-m", "tests.benchmarks.vision_step", *sys.argv[1:]],
        seconds={name: round(value, 4) for name, value in medians.items()},
        images_per_second={name: round(arguments.batch / value, 1) for name, value in medians.items()},
        milliseconds_to_make_a_batch={name: round(1e3 * value, 2) for name, value in makes.items()},
        labelled_views_per_second=round(labelled, 1),
        bytes_per_view={name: round(size, 2) for name, size in weights.items()},
        batch=arguments.batch,
        parameters={"teacher": count(teacher), "student": count(student)},
    )


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
