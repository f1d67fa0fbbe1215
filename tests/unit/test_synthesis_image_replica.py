"""A replica that makes images of a saved teacher: the same after a death, and what it lacks is said."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import kdcore.precision
from cluster.labelling.twin import InProcessPool
from cluster.synthesis.image_gather import gather
from cluster.synthesis.image_replica import ImageReplica
from cluster.synthesis.run import synthesize
from kdcore.config.models import ImageClassifierConfig
from kdcore.config.recipe import Recipe
from kdcore.data.document import ImageSample, SampleRef
from kdcore.data.sources import open_source
from kdcore.data.synthesised.recipes import learning_from
from kdcore.data.synthesised.source import SynthesisedSource
from kdcore.errors import ConfigError, DataError, IdentityMismatch, UnreadableDocument
from kdcore.evaluation.markdown import render
from kdcore.evaluation.synthesis import measure_made
from kdcore.models.image import build_image_model, save_image_model

NETWORK = {"source": "convnet", "kwargs": {"width": 4, "depth": 2}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = ImageClassifierConfig.model_validate(NETWORK)
        save_image_model(build_image_model(config, 10, 1), config, 10, 1, folder)
    return folder


def recipe(folder: Path, teacher: Path, **changes: Any) -> Recipe:
    synthesis = {"type": "zskt", "steps": 3, "batch_size": 8, "latent": 4, "width": 2, "student_steps": 1}
    synthesis |= {"samples": 20, "unit_samples": 12, **changes.pop("synthesis", {})}
    tree = {
        "name": "made",
        "runs": str(folder / "runs"),
        "data": {"type": "digits"},
        "teacher": {"type": "image_classifier", "path": str(teacher), "dtype": "bfloat16", **NETWORK},
        "student": {"type": "image_classifier", "source": "convnet", "kwargs": {"width": 2, "depth": 2}},
        "synthesis": synthesis,
        "cluster": {"replicas": 1},
    }
    return Recipe.model_validate(tree | changes)


def make(asked: Recipe, deaths: Any = (), on_note: Any = lambda note: None) -> Any:
    raw = str(asked.run_dir / "synthesis" / "generation-000")

    @contextmanager
    def pool(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
        yield InProcessPool(lambda: ImageReplica(recipe.model_dump_json(), raw), deaths)

    return synthesize(asked, 0, on_note, pool, gather)


def test_made_images_are_the_same_after_a_death_and_learnt_from(teacher: Path, tmp_path: Path) -> None:
    whole, torn = recipe(tmp_path / "a", teacher), recipe(tmp_path / "b", teacher)
    made = make(whole)
    make(torn, deaths=[("unit-000001", 0)])
    rows = [
        [
            row
            for file in sorted((asked.run_dir / "samples").glob("*.parquet"))
            for row in pq.read_table(file).to_pylist()
        ]
        for asked in (whole, torn)
    ]
    assert rows[0] == rows[1]
    assert made.made == 20
    assert {row["method"] for row in rows[0]} == {"zskt"}
    assert len({row["seed"] for row in rows[0]}) == 2
    assert made.figures["images"] == made.kept == len(rows[0])
    source = open_source(learning_from(whole, 1).data)
    image = source.read(source.list("train")[0])
    assert isinstance(image, ImageSample)
    assert image.pixels.shape == (1, 8, 8)


def test_a_device_that_is_slow_at_the_precision_is_said_before_images_are_made(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kdcore.precision, "computes_bfloat16", lambda device: False)
    for precision, times in (("float32", 0), ("bfloat16", 1)):  # whatever teacher.dtype is: it labels later
        asked, told = recipe(tmp_path / precision, teacher, synthesis={"precision": precision}), []
        make(asked, on_note=told.append)
        assert sum("Set synthesis.precision=float32, " in note for note in told) == times


def content(asked: Recipe) -> list[dict[str, Any]]:
    files = sorted((asked.run_dir / "samples").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_a_replica_says_what_is_asked_and_what_is_missing(teacher: Path, tmp_path: Path) -> None:
    def load(**changes: Any) -> ImageReplica:
        return ImageReplica(recipe(tmp_path, teacher, **changes).model_dump_json(), str(tmp_path))

    one, other = load().identity(), load(synthesis={"steps": 4}).identity()
    assert one["teacher"] == other["teacher"]
    assert one["synthesis"] != other["synthesis"]
    assert (one["student"], load().torn) == (None, False)
    assert load(synthesis={"samples": 40}).identity() == one
    exported = str(export(tmp_path))
    assert load(synthesis={"student": exported}).identity()["student"] is not None
    begun = {"type": "image_classifier", "source": "convnet", "kwargs": {"width": 2, "depth": 2}, "path": exported}
    assert load(student=begun).identity()["student"] is not None
    with pytest.raises(ConfigError, match="add `student`"):
        load(student=None)
    with pytest.raises(ConfigError, match=r"synthesis\.batch_norm"):
        load(synthesis={"type": "dfq"})


def export(folder: Path) -> Path:
    config = ImageClassifierConfig.model_validate({"source": "convnet", "kwargs": {"width": 2, "depth": 2}})
    save_image_model(build_image_model(config, 10, 1), config, 10, 1, folder / "student")
    return folder / "student"


def test_images_of_another_data_set_are_drawn_for_a_transfer_set(teacher: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    path = tmp_path / "others.parquet"
    pq.write_table(table_of(draw.integers(0, 256, (30, 9, 9, 3), dtype=np.uint8)), path)
    simple = {"type": "transfer", "path": str(path), "samples": 6, "unit_samples": 6, "candidates": 3.0}
    asked = recipe(tmp_path, teacher, student=None)
    asked = Recipe.model_validate({**asked.model_dump(), "synthesis": simple})
    assert make(asked).made == 6
    missing = Recipe.model_validate({**asked.model_dump(), "name": "x", "synthesis": {**simple, "image_column": "x"}})
    with pytest.raises(DataError, match=r"synthesis\.path"):
        make(missing)
    moved = path.rename(tmp_path / "moved.parquet")
    asked = Recipe.model_validate({**asked.model_dump(), "synthesis": {**simple, "path": str(moved)}})
    assert make(asked).made == 6, "the same images in another place"
    pq.write_table(table_of(draw.integers(0, 256, (30, 9, 9, 3), dtype=np.uint8)), moved)
    with pytest.raises(IdentityMismatch, match="unrelated"):
        make(asked)


def table_of(images: np.ndarray) -> Any:
    import io

    import pyarrow as pa
    from PIL import Image

    encoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        encoded.append({"bytes": file.getvalue()})
    return pa.table({"image": encoded})


def test_a_report_shows_what_was_made_beside_what_is_real(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(tmp_path, teacher, data={"type": "digits", "on_unreadable": "skip"})
    make(asked)
    read, torn = SynthesisedSource.read, open_source(asked.data).list("heldout")[0]

    def torn_read(source: SynthesisedSource, ref: SampleRef) -> Any:
        if ref == torn:
            raise UnreadableDocument("torn")
        return read(source, ref)

    monkeypatch.setattr(SynthesisedSource, "read", torn_read)
    (figures,) = measure_made(learning_from(asked, 1))
    assert (figures["generation"], figures["made"]) == (0, 20)
    assert figures["nearest_made"] > figures["nearest_real"] > 0
    assert (asked.run_dir / "samples.png").stat().st_size > 1000
    page = render({**EMPTY, "synthesis": [{**figures, "notes": ["collapsed: so it is"]}]}, "")
    assert "| made | 20 |" in page
    assert "(samples.png)" in page
    assert "- generation 0: collapsed: so it is" in page
    assert "Samples made" not in render(EMPTY, "")


def test_a_few_real_images_are_not_measured_as_made_ones(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, shown = recipe(tmp_path, teacher, synthesis={"real_per_class": 2}), list[int]()
    kept = make(asked).kept
    monkeypatch.setattr("kdcore.evaluation.synthesis.draw_grid", lambda path, made, real: shown.append(len(made[0])))
    measure_made(learning_from(asked, 1))
    assert shown == [kept]


EMPTY: dict[str, Any] = {"name": "x", "verdict": "y", "roles": {}, "models": {}, "stages": {}}
