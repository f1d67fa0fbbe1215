"""A label store that cannot fit on its disk is refused before its labels are made."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.labelling.disk_room import OUTLOOK
from cluster.labelling.replica.replica import Replica
from cluster.labelling.twin import InProcessPool
from kdcore.config.recipe import Recipe
from kdcore.errors import OutOfSpace
from kdcore.store import open_store
from tests.support.labelling_runs import label
from tests.support.tiny_teacher import write_documents, write_teacher

pytest.importorskip("transformers")


class Settled(Replica):
    """What an actor hands on of a replica, on a disk with 1000 bytes."""

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), OUTLOOK: {**self.outlook(), "free": 1000}}


@contextmanager
def small_disk(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
    yield InProcessPool(lambda: Settled(recipe.model_dump_json(), str(recipe.store_path)))


def test_what_a_replica_says_of_its_disk_ends_the_job(tmp_path: Path) -> None:
    write_documents(tmp_path / "docs", 40)
    write_teacher(tmp_path / "teacher")
    labels = {"labels": {"unit_bytes": 10**6, "codec": {"type": "topk", "k": 4}}}
    with pytest.raises(OutOfSpace, match=r"take about [\d,]+ bytes, '.*' has 1,000 free") as refused:
        label(tmp_path, "narrow", small_disk, **labels)
    assert not list((tmp_path / "runs" / "narrow" / "labels").glob("data/*"))

    store = open_store(label(tmp_path, "wide", **labels))
    told = int(re.findall(r"about ([\d,]+) bytes", str(refused.value))[0].replace(",", ""))
    assert 0.7 < told / store.manifest.num_bytes < 1.4
    assert store.manifest.extra["statistics"]["teacher_mfu"] > 0
