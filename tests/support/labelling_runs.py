"""Labelling runs of the tiny teacher in this process, and everything that a store says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cluster.labelling.replica.replica import Replica
from cluster.labelling.run import PoolMaker, label_store
from cluster.labelling.twin import InProcessPool
from kdcore.config.recipe import Recipe
from kdcore.store import Location, open_store
from tests.support.tiny_teacher import recipe


@contextmanager
def in_process(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
    """Replicas in this process, one unit at a time."""
    yield InProcessPool(lambda: Replica(recipe.model_dump_json(), str(recipe.store_path)))


def label(folder: Path, name: str, pool: PoolMaker = in_process, **changes: Any) -> str:
    """Label the documents in `folder`; the store's path or URL."""
    return label_store(Recipe.model_validate(recipe(folder, name, **changes)), lambda note: None, pool)


def content(path: Location) -> dict[bytes, tuple[Any, ...]]:
    """Everything that a store says of a sample, by key, to the bit."""
    store = open_store(path)
    keys, occurrences = store.keys(), store.occurrences()
    rows: dict[bytes, tuple[Any, ...]] = {}
    for row in range(store.num_rows):
        columns = store.row_view(row).columns
        arrays = [store.tokens(row), store.token_log_probs(row), *(columns[name] for name in sorted(columns))]
        rows[np.asarray(keys[row]).tobytes()] = (
            store.name(row), int(occurrences[row]), sorted(columns), *(array.tobytes() for array in arrays),
        )  # fmt: skip
    assert len(rows) == store.num_rows
    return rows


def orphans(store: Path) -> set[str]:
    """Files that a finished store does not need, found without asking the collector."""
    manifest = open_store(store).manifest
    needed = {manifest.index.file, *(receipt.shard for receipt in manifest.shards)}
    needed |= {f"journal/{receipt.unit}.json" for receipt in manifest.shards}
    needed |= {"manifest.json", "identity.json", "README.md", "probe.json"}
    needed |= {f"plan/{file.name}" for file in store.glob("plan/input-*.json")}
    files = {str(file.relative_to(store)) for file in store.rglob("*") if file.is_file()}
    assert needed <= files
    return files - needed
