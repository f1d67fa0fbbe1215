"""The driver of a synthesis, on a maker of images that needs no teacher: killed, continued, gathered, learnt from."""

import errno
import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.labelling.run import PoolMaker
from cluster.labelling.twin import InProcessPool
from cluster.synthesis.image_gather import gather
from cluster.synthesis.run import synthesize
from kdcore.config.recipe import Recipe
from kdcore.data.document import ImageSample
from kdcore.data.sources import open_source
from kdcore.data.splits import probe_order
from kdcore.data.synthesised.gathering import files_of, read_generation
from kdcore.data.synthesised.recipes import learning_from
from kdcore.data.synthesised.shards import IMAGE_SHARD, MadeImage, image_batches
from kdcore.errors import IdentityMismatch, OutOfSpace, StoreError
from kdcore.store.writer import Receipt, write_shard
from kdcore.synthesis.units import SynthesisUnit, cut_units, settings_of_samples

SAMPLES, OF_UNIT = 20, 8


class Noise:
    """Makes grey 8 x 8 noise of a unit's seed."""

    note = ""

    def __init__(self, raw: Path, teacher: str = "noise") -> None:
        self.raw, self.teacher = raw, teacher

    def identity(self) -> dict[str, Any]:
        return {"kind": "image", "teacher": self.teacher}

    def label(self, unit: SynthesisUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        draw = np.random.default_rng(unit.seed)
        images = [
            MadeImage(f"{unit.id}/{row}", draw.integers(0, 256, (8, 8, 1), dtype=np.uint8), row % 10, "noise",
                      unit.generation, unit.id, unit.seed, 3, {"total": 0.5})
            for row in range(unit.samples)
        ]  # fmt: skip
        return write_shard(self.raw, unit.id, attempt, IMAGE_SHARD, image_batches(images), unit_digest=unit.digest)


def recipe(folder: Path, **synthesis: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "noise",
            "runs": str(folder / "runs"),
            "data": {"type": "digits"},
            "teacher": {"type": "image_classifier", "source": "lenet", "path": "nowhere"},
            "synthesis": {"type": "dafl", "samples": SAMPLES, "unit_samples": OF_UNIT, **synthesis},
            "cluster": {"replicas": 1},
        }
    )


def pool(
    asked: Recipe, deaths: Sequence[tuple[str, int]] = (), teacher: str = "noise", generation: int = 0
) -> PoolMaker:
    raw = asked.run_dir / "synthesis" / f"generation-{generation:03d}"

    @contextmanager
    def make(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
        yield InProcessPool(lambda: Noise(raw, teacher), deaths)

    return make


def content(asked: Recipe) -> list[dict[str, Any]]:
    files = sorted((asked.run_dir / "samples").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def make(asked: Recipe, **how: Any) -> Any:
    return synthesize(asked, how.get("generation", 0), lambda note: None, pool(asked, **how), gather)


def test_a_unit_whose_maker_died_is_made_again_to_the_byte(tmp_path: Path) -> None:
    whole, torn = recipe(tmp_path / "a"), recipe(tmp_path / "b")
    made = make(whole)
    make(torn, deaths=[("unit-000001", 0), ("unit-000002", 0)])
    assert made.kept == made.made == SAMPLES
    assert content(whole) == content(torn)
    rows = content(whole)
    assert [row["label"] for row in rows] == [*range(8), *range(8), *range(4)]
    assert {row["method"] for row in rows} == {"noise"}
    assert json.loads(rows[0]["losses"]) == {"total": 0.5}


def test_finished_samples_are_left_alone_and_more_of_them_keep_the_whole_units(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    make(asked)
    before = content(asked)
    assert make(asked, deaths=[("unit-000000", 0)]).kept == SAMPLES  # nothing is made again, so that nobody dies
    more = cut_units(recipe(tmp_path, samples=40).synthesis)  # pyright: ignore[reportArgumentType]
    assert [unit.digest for unit in more[:2]] == [unit.digest for unit in cut_units(asked.synthesis)[:2]]  # pyright: ignore
    assert content(asked) == before


def test_a_run_goes_on_that_began_before_a_setting_was_there(tmp_path: Path) -> None:
    before, after = (settings_of_samples(recipe(tmp_path, **changes).synthesis) for changes in ({}, {"layer_norm": 1}))  # pyright: ignore
    assert {name: value for name, value in after.items() if before.get(name) != value} == {"layer_norm": 1.0}
    assert not {"attention", "attention_pairs"} & before.keys()


def test_settings_that_changed_are_said_to_be_of_the_synthesis(tmp_path: Path) -> None:
    make(recipe(tmp_path))
    with pytest.raises(StoreError, match=r"unit-00000\d of .* was cut differently.* Set `synthesis` back to"):
        make(recipe(tmp_path, seed=1))


def test_samples_of_another_teacher_are_not_continued(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    make(asked)
    (asked.run_dir / "samples" / "generation-000.json").unlink()
    next((asked.run_dir / "synthesis").glob("*/journal/unit-000001.json")).unlink()
    with pytest.raises(IdentityMismatch, match="noise"):
        make(asked, teacher="another")


def test_finished_samples_of_another_teacher_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    make(asked)
    with pytest.raises(IdentityMismatch, match="another"):
        make(asked, teacher="another")


def test_an_altered_file_of_samples_is_refused(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    make(asked)
    folder = asked.run_dir / "samples"
    assert read_generation(folder, 0) is not None
    path = next(folder.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(StoreError, match="not those that were written"):
        read_generation(folder, 0)


def test_a_full_disk_leaves_no_note_and_the_samples_are_gathered_again(tmp_path: Path, monkeypatch: Any) -> None:
    asked, write = recipe(tmp_path), Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if "samples" in path.parts:
            raise OSError(errno.ENOSPC, "no room")
        return write(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OutOfSpace, match=r"generation-000\.json"):
            make(asked)
    assert make(asked).kept == SAMPLES


def test_what_a_killed_job_left_is_removed(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    folder = asked.run_dir / "samples"
    folder.mkdir(parents=True)
    left = [folder / name for name in ("generation-000-unit-000009.parquet", ".generation-000-unit-000001.parquet.123")]
    others = [folder / name for name in ("generation-001-unit-000009.parquet", ".generation-001-a.parquet.1")]
    for path in [*left, *others]:
        path.touch()
    made = make(asked)
    assert {path.name for path in folder.iterdir()} == {
        "generation-000.json",
        *(file.name for file in made.files),
        *(path.name for path in others),
    }


def test_students_learn_from_made_images_and_are_measured_on_real_ones(tmp_path: Path) -> None:
    asked = recipe(tmp_path)
    make(asked)
    make(asked, generation=1)
    first, both = (open_source(learning_from(asked, number).data) for number in (1, 2))
    real = open_source(asked.data)
    assert (len(first.list("train")), len(both.list("train"))) == (SAMPLES, 2 * SAMPLES)
    assert first.list("heldout") == real.list("heldout")
    ref = first.list("train")[0]
    image = first.read(ref)
    assert isinstance(image, ImageSample)
    raw = np.random.default_rng(cut_units(asked.synthesis)[0].seed).integers(0, 256, (8, 8, 1), dtype=np.uint8)  # pyright: ignore
    np.testing.assert_allclose(image.pixels, (raw.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6)
    listed = [ref for extent in both.extents("train") for ref in both.refs(extent, "train")]
    assert sorted(listed) == sorted(both.list("train"))


def test_a_few_real_images_of_each_class_are_learnt_from_too(tmp_path: Path) -> None:
    asked = recipe(tmp_path, real_per_class=2)
    make(asked)
    source = open_source(learning_from(asked, 1).data)
    listed = source.list("train")
    assert len(listed) == SAMPLES + 2 * 10
    assert sorted(ref for extent in source.extents("train") for ref in source.refs(extent, "train")) == listed
    corpus = open_source(asked.data)
    real = set(corpus.list("train"))
    ranked: dict[Any, list[Any]] = {}
    for ref in probe_order(corpus.list("train")):
        ranked.setdefault(corpus.read(ref).target, []).append(ref)  # pyright: ignore[reportAttributeAccessIssue]
    assert {ref for ref in listed if ref in real} == {ref for refs in ranked.values() for ref in refs[:2]}
    targets = [source.read(ref).target for ref in listed if ref in real]  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(targets) == sorted(2 * list(range(10)))
    assert not set(source.list("heldout")) & set(listed)


def test_a_folder_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    for name in ("generation-000-a.parquet", "generation-001-a.parquet", "generation-000.json"):
        (folder / name).touch()
    assert [Path(path).name for pattern in files_of(folder, 1) for path in glob.glob(pattern)] == [
        "generation-000-a.parquet"
    ]
