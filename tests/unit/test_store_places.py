"""Places other than a directory, the index's look-ups, and which rows a worker reads."""

import pickle
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from kdcore.errors import IdentityMismatch, IncompleteStore, LabelError, MissingLabels, StoreError
from kdcore.store import (
    collect_garbage,
    open_for_writing,
    open_place,
    open_store,
    publish_manifest,
    publish_probe,
    publish_receipt,
    read_journal,
    read_probe,
    read_receipts,
    verify_store,
)
from kdcore.store.keys import KeyTable
from kdcore.store.order import share_of
from kdcore.store.reader import LabelStore
from kdcore.store.storage import place
from kdcore.store.storage.parallel import in_order
from kdcore.store.storage.remote import RemotePlace
from tests.support.stores import UNITS, identity_of, labels_of, make_store, rows_of, write_unit

ROWS = [row for unit in range(3) for row in rows_of(unit)]


@pytest.fixture
def url(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    return f"memory://{tmp_path.name}/labels"


def test_a_store_in_another_filesystem_is_the_same_store(url, tmp_path):
    local, remote = make_store(tmp_path / "local"), make_store(url)
    for path in (local, remote):
        assert verify_store(path).ok
        store = open_store(path, identity_of(), verify="full")
        assert store.path == str(path)
        for number, row in enumerate(ROWS):
            assert store.labels(number).ids.equal(labels_of(row).ids)
            assert store.name(number) == row.name
    left, right = open_store(local).manifest, open_store(remote).manifest
    assert [shard.digest for shard in left.shards] == [shard.digest for shard in right.shards]
    assert left.columns == right.columns
    assert left.index.digest == right.index.digest


def test_the_protocol_holds_in_another_filesystem(url):
    assert read_probe(url) is None
    assert publish_probe(url, b"one") == b"one"
    assert publish_probe(url, b"two") == b"one"
    open_for_writing(url, identity_of())
    with pytest.raises(IdentityMismatch):
        open_for_writing(url, identity_of(input="j"))
    with pytest.raises(IncompleteStore):
        open_store(url)
    first, second = write_unit(url, 0), write_unit(url, 0)
    assert publish_receipt(url, first) == publish_receipt(url, second) == first
    assert dict(read_receipts(url, UNITS)) == {"unit-000000": first}
    for unit in (1, 2):
        publish_receipt(url, write_unit(url, unit))
    assert publish_manifest(url, identity_of(), read_journal(url, UNITS), {"a": 1}).extra == {"a": 1}
    assert publish_manifest(url, identity_of(), read_journal(url, UNITS), {"a": 2}).extra == {"a": 1}
    assert open_store(url, verify="full").manifest.extra == {"a": 1}


def test_what_a_codec_learnt_is_in_the_manifest(tmp_path, monkeypatch):
    import kdcore.store.manifest as module

    seen = []
    real = module.codec_from_spec
    monkeypatch.setattr(module, "codec_from_spec", lambda spec, state: seen.append(state) or real(spec, None))
    open_for_writing(tmp_path, identity_of())
    state = bytes(range(256))
    publish_manifest(tmp_path, identity_of(), [publish_receipt(tmp_path, write_unit(tmp_path, 0))], None, state)
    assert open_store(tmp_path).manifest.codec_state == state
    assert set(seen) == {state}


def test_a_failing_writer_leaves_nothing_in_another_filesystem(url):
    place = open_place(url)

    def write():
        with place.writer("data/x.arrow") as file:
            file.write(b"half")
            raise LabelError("no")

    with pytest.raises(LabelError):
        write()
    assert place.sizes("data") == {}
    assert place.size("data/x.arrow") is None


def test_a_storage_without_conditional_puts_is_refused(url, monkeypatch):
    fs = open_place(url)._fs  # type: ignore[attr-defined]
    real = type(fs).pipe_file
    monkeypatch.setattr(type(fs), "pipe_file", lambda self, path, value, mode="overwrite": real(self, path, value))
    for begin in (lambda: publish_probe(url, b"x"), lambda: open_for_writing(url, identity_of())):
        with pytest.raises(StoreError, match="ignores conditional puts"):
            begin()
        assert open_place(url).entries() == []


def test_places_travel_and_show_no_more_than_their_url(url, tmp_path):
    for path in (url, tmp_path, f"file://{tmp_path}"):
        place = open_place(path)
        again = pickle.loads(pickle.dumps(place))  # noqa: S301
        assert again == place
        assert repr(again) == f"{type(place).__name__}('{place.url}')"
        assert open_place(place) is place
    assert open_place(f"file://{tmp_path}") == open_place(tmp_path)


@pytest.mark.parametrize(
    "path", ["nothing://bucket/x", "memory://", "memory://a//b", "memory://a/../b", "://x", "S3://x"]
)
def test_urls_that_cannot_be_are_refused(path):
    with pytest.raises(StoreError, match=r"labels\.path"):
        open_place(path)


def test_a_cache_that_cannot_be_written_is_said(url, tmp_path, monkeypatch):
    make_store(url)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="cannot write"):
        open_store(url)


def test_many_readers_at_once_share_one_cache(url, tmp_path):
    make_store(url)
    start = threading.Barrier(6)

    def read(_):
        start.wait()
        return open_store(url).labels(5).ids

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(read, range(6)))
    assert all(ids.equal(labels_of(ROWS[5]).ids) for ids in found)
    files = [path.name for path in (tmp_path / "cache" / "files").rglob("*") if path.is_file()]
    assert len(files) == 2  # the index and one shard
    assert not any(name.startswith(".") for name in files)


def _after(start, url):
    start.wait()
    return open_store(url).name(5)


def test_many_threads_fetch_a_file_once(url, tmp_path, monkeypatch):
    manifest = open_store(make_store(url)).manifest
    fetched = []
    real = RemotePlace._download

    def slowly(self, name, *rest):
        fetched.append(name)
        time.sleep(0.01)
        real(self, name, *rest)

    monkeypatch.setattr(RemotePlace, "_download", slowly)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            shutil.rmtree(tmp_path / "cache" / "files")
            fetched.clear()
            start = threading.Barrier(8)
            found = list(pool.map(lambda _, start=start: _after(start, url), range(8)))
            assert found == [ROWS[5].name] * 8
            assert sorted(fetched) == sorted([manifest.index.file, manifest.shards[1].shard])


def test_a_copy_made_anew_while_it_is_opened_is_opened_again(url, tmp_path, monkeypatch):
    store = open_store(make_store(url))
    real, replaced = place.os.fstat, []
    receipt = store.manifest.shards[0]
    path = open_place(url).local_file(receipt.shard, receipt.bytes, receipt.digest)
    inode = path.stat().st_ino

    def another(descriptor):
        state = real(descriptor)
        if state.st_ino == inode and not replaced and sys._getframe(1).f_code.co_name == "__init__":
            replaced.append(path)
            copy = path.with_name("copy")
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
        return state

    monkeypatch.setattr(place.os, "fstat", another)
    assert store.name(0) == ROWS[0].name
    assert replaced == [path]


def test_a_slow_shard_does_not_stop_the_readers_of_others(tmp_path, monkeypatch):
    store = open_store(make_store(tmp_path / "s"))
    begun, go = threading.Event(), threading.Event()
    real = LabelStore._checked

    def waits(self, number):
        if number == 0:
            begun.set()
            assert go.wait(30)
        return real(self, number)

    monkeypatch.setattr(LabelStore, "_checked", waits)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(store.name, 0)
        try:
            assert begun.wait(30)
            assert pool.submit(store.name, 5).result(10) == ROWS[5].name
        finally:
            go.set()
        assert slow.result(10) == ROWS[0].name


def test_garbage_of_an_unfinished_store_waits_for_its_age(tmp_path):
    open_for_writing(tmp_path, identity_of())
    kept = publish_receipt(tmp_path, write_unit(tmp_path, 0))
    lost = write_unit(tmp_path, 1)
    (tmp_path / "data" / ".unit-000001-0-0123abcd.arrow.partial").write_bytes(b"x")
    (tmp_path / "journal" / ".unit-000001.json.0123456789abcdef.tmp").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("a person's own")
    assert collect_garbage(tmp_path) == []
    torn = {"data/.unit-000001-0-0123abcd.arrow.partial", "journal/.unit-000001.json.0123456789abcdef.tmp"}
    wanted = {lost.shard, *torn}
    assert set(collect_garbage(tmp_path, 0, dry_run=True)) == wanted
    assert (tmp_path / lost.shard).exists()
    assert set(collect_garbage(tmp_path, 0)) == wanted
    assert (tmp_path / kept.shard).exists()
    assert (tmp_path / "notes.txt").exists()
    assert list(read_receipts(tmp_path)) == ["unit-000000"]


def test_garbage_is_not_collected_where_there_is_no_store(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.arrow").write_bytes(b"x")
    with pytest.raises(IncompleteStore, match="nothing was removed"):
        collect_garbage(tmp_path, 0)
    assert (tmp_path / "data" / "mine.arrow").exists()


def test_keys_are_found_as_a_dictionary_finds_them():
    generator = np.random.default_rng(0)
    keys = generator.integers(0, 1 << 63, (1000, 2), dtype=np.uint64)
    keys[500:600, 0] = keys[0, 0]  # many that share their first half
    raw = [key.tobytes() for key in keys]
    table = KeyTable(keys)
    np.testing.assert_array_equal(table.find_all(raw), np.arange(1000))
    strangers = [bytes(16), raw[3][:8] + bytes(8), raw[500][:8] + b"\xff" * 8, b"", raw[0] + b"x", raw[0][:15]]
    assert table.find_all(strangers).tolist() == [-1] * 6
    assert len(table.repeated()) == 0
    doubled = KeyTable(np.concatenate([keys, keys[[7, 7, 520, 999]]]))
    found = np.concatenate([keys, keys[[7, 7, 520, 999]]])[doubled.repeated()]
    assert {key.tobytes() for key in found} == {raw[7], raw[520], raw[999]}
    assert len(found) == 3
    empty = KeyTable(np.empty((0, 2), np.uint64))
    assert empty.find(raw[0]) == -1
    assert len(empty.repeated()) == 0


def test_rows_of_many_keys(tmp_path):
    store = open_store(make_store(tmp_path / "s"))
    order = [7, 0, 11, 7]
    assert store.rows_of([ROWS[row].key for row in order]).tolist() == order
    assert store.rows_of([]).tolist() == []
    with pytest.raises(MissingLabels, match="1 of 2"):
        store.rows_of([ROWS[0].key, bytes(16)])


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize(("world", "workers"), [(1, 1), (3, 1), (2, 4), (5, 3), (40, 2)])
def test_every_row_is_read_by_exactly_one_worker(seed, world, workers):
    parts = [share_of(53, rank, world, worker, workers, seed, 2) for rank in range(world) for worker in range(workers)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(53))
    assert all(part.dtype == np.int64 for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 2
    alone = share_of(53, 0, world, 0, 1, seed, 2)
    together = np.concatenate([share_of(53, 0, world, worker, workers, seed, 2) for worker in range(workers)])
    assert sorted(alone.tolist()) == sorted(together.tolist())


def test_the_order_of_rows_is_fixed_for_ever(tmp_path):
    store = open_store(make_store(tmp_path / "s"))
    assert store.rows_for(0, 1).tolist() == list(range(12))
    # Written down: another machine or version of numpy must not change what a resumed run reads.
    assert store.rows_for(0, 1, seed=1).tolist() == FIXED
    orders = [tuple(store.rows_for(0, 1, seed=seed, epoch=epoch).tolist()) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    assert tuple(store.rows_for(0, 1, seed=-1)) in {tuple(store.rows_for(0, 1, seed=(1 << 64) - 1))}


FIXED = [3, 5, 2, 4, 10, 1, 9, 0, 6, 11, 8, 7]


@pytest.mark.parametrize(
    ("rank", "world", "worker", "workers"), [(1, 1, 0, 1), (-1, 2, 0, 1), (0, 0, 0, 1), (0, 1, 2, 2)]
)
def test_workers_that_cannot_be_are_refused(rank, world, worker, workers):
    with pytest.raises(StoreError, match="rank"):
        share_of(10, rank, world, worker, workers, None, 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_answer_in_order_and_stop_at_the_first_error(threads):
    begun = []

    def work(number):
        begun.append(number)
        if number == 20:
            raise ValueError("twenty")
        return number

    found = []
    with pytest.raises(ValueError, match="twenty"):
        found.extend(in_order(work, range(1000), threads))
    answers = iter(in_order(lambda number: -number, range(100), threads))
    assert all(left > right for left, right in pairwise(answers))
    assert len(begun) < 100


def test_a_batch_over_many_shards_needs_few_descriptors(tmp_path, monkeypatch):
    import os

    import kdcore.store.reader as reader

    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    store = open_store(make_store(tmp_path / "s"))
    before = len(os.listdir("/proc/self/fd"))
    views = [store.row_view(row) for row in range(12)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert store.codec.decode(views[5:6], [0], [1]).ids.equal(labels_of(ROWS[5]).ids[:1])
    assert views[11].columns["ids"].tolist() == ROWS[11].columns["ids"].tolist()


def test_threads_read_one_store(tmp_path, monkeypatch):
    import kdcore.store.reader as reader

    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    store = open_store(make_store(tmp_path / "s"))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: store.labels(number % 12).ids, range(400)))
    assert all(ids.equal(labels_of(ROWS[number % 12]).ids) for number, ids in enumerate(found))
