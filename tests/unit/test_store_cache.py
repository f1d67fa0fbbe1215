"""The cache of remote files stays within its bound, and takes nothing from under a reader."""

import os
import time

import pytest

from kdcore.errors import StoreError
from kdcore.store import open_store
from kdcore.store.storage import cache
from kdcore.store.storage import remote as place_remote
from kdcore.store.storage.place import MappedFile
from tests.support.stores import make_store


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_added", {})
    return tmp_path / "cache"


@pytest.fixture
def url(tmp_path):
    pytest.importorskip("fsspec")
    return make_store(f"memory://{tmp_path.name}/store")


def _copy(number, age, size=100):
    path = cache.cached(f"{number:032x}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def _numbers(folder):
    return sorted(int(path.name, 16) for path in (folder / "files").glob("*/*"))


def test_what_was_used_longest_ago_goes_first(folder, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE_BYTES", "250")
    paths = [_copy(number, 1000 - 100 * number) for number in range(5)]
    assert cache.mark_used(paths[0]) == 100
    cache.make_room(0)
    assert _numbers(folder) == [0, 4]
    assert cache.mark_used(paths[1]) is None


def test_what_was_used_just_now_stays_and_is_not_touched(folder, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE_BYTES", "1")
    path = _copy(1, 1000)
    mapped = MappedFile(path, 100)
    cache.mark_used(path)
    cache.make_room(0)
    assert _numbers(folder) == [1]
    mapped.check()  # its modification time is what it was
    os.utime(path, ns=(0, path.stat().st_mtime_ns))
    cache.make_room(1)
    assert _numbers(folder) == []
    mapped.check()  # and it can be read on
    assert mapped.buffer.to_pybytes() == bytes(100)


def test_the_cache_is_looked_at_now_and_then(folder, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE_BYTES", "1600")
    cache.make_room(10)
    for number in range(30):
        _copy(number, 1000 - number)
    cache.make_room(89)
    assert len(_numbers(folder)) == 30
    cache.make_room(11)
    assert _numbers(folder) == list(range(14, 30))


def test_torn_downloads_of_killed_processes_go_too(folder, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE_BYTES", "150")
    torn = _copy(1, 1000).with_name(".0001.partial")
    torn.write_bytes(bytes(100))
    os.utime(torn, (0, 0))
    _copy(2, 500)
    cache.make_room(0)
    assert _numbers(folder) == [2]


@pytest.mark.parametrize("text", ["0", "-1", "50 GB", "1e9"])
def test_a_bound_that_is_no_number_is_refused(folder, url, monkeypatch, text):
    monkeypatch.setenv("KDCORE_CACHE_BYTES", text)
    with pytest.raises(StoreError, match="KDCORE_CACHE_BYTES"):
        open_store(url)


def test_a_copy_that_goes_before_it_is_opened_is_fetched_again(folder, url, monkeypatch):
    store = open_store(url)
    wanted = [store.labels(row).log_probs for row in range(12)]
    again = open_store(url)
    real, lost = cache.mark_used, []

    def taken_away(path):
        """Another process removes the copy after it was found, once."""
        size = real(path)
        if size is not None and not lost:
            lost.append(path)
            path.unlink()
        return size

    monkeypatch.setattr(place_remote, "mark_used", taken_away)
    assert all(again.labels(row).log_probs.equal(wanted[row]) for row in range(12))
    assert lost[0].exists()
