"""Fixtures of every tier."""

import gc
import os
from pathlib import Path

import pytest

# Tests start ranks and replicas: one thread a process, set before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Kernels run in triton's interpreter, on the CPU; with TRITON_INTERPRET=0 and a GPU their tests run on it.
os.environ.setdefault("TRITON_INTERPRET", "1")
# By default Ray's workers yield to everything else: those of one test would starve beside another test.
os.environ.setdefault("RAY_worker_niceness", "0")

# Imports and collection make millions of objects that stay: a third of that time went into looking at them.
gc.disable()

REPO = Path(__file__).resolve().parent.parent


def shared_data() -> Path | None:
    """The folder of real data: $KDCORE_SHARED, else ../shared/data beside the checkout; None where it is missing."""
    chosen = os.environ.get("KDCORE_SHARED")
    folder = Path(chosen) if chosen else REPO.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files marked `long` first; tests marked `shared` are skipped where there is no such folder."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if shared_data() is not None:
        return
    skip = pytest.mark.skip(reason="no folder of real data: set KDCORE_SHARED, or put it at ../shared/data")
    for item in items:
        if item.get_closest_marker("shared"):
            item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Garbage is collected again, but not what was there before the first test."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """What is never collected is reported as leaked by some libraries."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; a test that asks for it is marked `shared`."""
    folder = shared_data()
    if folder is None:
        pytest.skip("no folder of real data: set KDCORE_SHARED, or put it at ../shared/data")
    return folder
