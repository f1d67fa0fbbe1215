"""SIGKILL a replica that makes images, then the driver, in a real run on Ray: the samples are an undisturbed run's."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from cluster.labelling.twin import InProcessPool
from cluster.synthesis.image_gather import gather
from cluster.synthesis.image_replica import ImageReplica
from cluster.synthesis.run import synthesize
from kdcore.config.models import ImageClassifierConfig
from kdcore.config.recipe import Recipe
from kdcore.data.synthesised.places import samples_folder, units_folder
from kdcore.models.image import build_image_model
from kdcore.students.export import export_student
from tests.faults.test_labelling_kill import finish, launch, wait_for_receipts
from tests.support.processes import actors_of

pytest.importorskip("ray")

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

NETWORK = {"type": "image_classifier", "source": "convnet", "kwargs": {"width": 8, "depth": 3}}
DRIVER = """
import sys
from pathlib import Path
from cluster.synthesis.run import synthesize
from kdcore.config.recipe import Recipe
synthesize(Recipe.model_validate_json(Path(sys.argv[1]).read_text()))
print("FINISHED", flush=True)
"""


def recipe(folder: Path, name: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(folder / "runs"),
            "data": {"type": "digits"},
            "teacher": {**NETWORK, "path": str(folder / "teacher")},
            "synthesis": {"type": "dafl", "samples": 64, "unit_samples": 4, "batch_size": 16, "steps": 40, "width": 4},
            "cluster": {"replicas": 1, "workers": 1},
        }
    )


def rows(asked: Recipe) -> list[dict[str, Any]]:
    return [row for file in sorted(samples_folder(asked).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@contextmanager
def in_process(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
    yield InProcessPool(lambda: ImageReplica(recipe.model_dump_json(), str(units_folder(recipe, 0))))


def test_killed_replicas_and_drivers_make_the_same_samples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ImageClassifierConfig.model_validate(NETWORK)
    export_student(
        build_image_model(config, 10, 1), tmp_path / "teacher", image_config=config, num_classes=10, in_channels=1
    )
    calm, killed = recipe(tmp_path, "calm"), recipe(tmp_path, "killed")
    synthesize(calm, 0, lambda note: None, in_process, gather)

    file, raw = tmp_path / "killed.json", units_folder(killed, 0)
    file.write_text(json.dumps(killed.model_dump(mode="json")))
    driver = launch("-c", DRIVER, str(file))
    wait_for_receipts(driver, raw, 2)
    actors = actors_of(driver.pid)
    assert actors, "no replica actor found"
    os.kill(actors[0], signal.SIGKILL)
    wait_for_receipts(driver, raw, 5)
    driver.kill()
    driver.wait()
    kept = len(list((raw / "journal").glob("*.json")))
    assert kept < 16, "the driver was killed too late to show anything"
    assert f"{kept} of 16 units were there" in finish(launch("-c", DRIVER, str(file)))
    assert rows(killed) == rows(calm)
    assert len(rows(calm)) == 64
