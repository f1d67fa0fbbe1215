"""A store in a bucket, against a real S3 API server on loopback."""

import pickle
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from kdcore.errors import CorruptShard, IdentityMismatch, IncompleteStore, KDError, StorageUnavailable, StoreError
from kdcore.store import (
    collect_garbage,
    find_receipt,
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
    write_shard,
)
from kdcore.store.storage import remote as place_remote
from tests.support.s3_front import front
from tests.support.s3_server import KEY, SECRET, TOKEN, environment, s3_server
from tests.support.stores import UNITS, identity_of, labels_of, make_store, rows_of, write_unit

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto")

MIB = 1 << 20


@pytest.fixture(scope="module")
def port():
    """A server of its own process; ends with the module."""
    with s3_server() as port:
        yield port


def _point_to(monkeypatch, port, tmp_path):
    for name, value in environment(port, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def client(port, monkeypatch, tmp_path):
    """The bucket's own client, for looking behind the store."""
    _point_to(monkeypatch, port, tmp_path)
    client = s3fs.S3FileSystem()
    if not client.exists("bucket"):
        client.mkdir("bucket")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def url(client, tmp_path):
    return f"s3://bucket/labels/{tmp_path.name}"


def _finish(url):
    done = read_receipts(url, UNITS)
    for number, unit in enumerate(UNITS):
        if unit not in done:
            publish_receipt(url, write_unit(url, number))
    return publish_manifest(url, identity_of(), read_journal(url, UNITS))


def _uploads(client):
    return [upload["Key"] for upload in client.list_multipart_uploads("bucket")]


def test_what_is_written_is_what_is_read(url, tmp_path):
    with pytest.raises(IncompleteStore):
        open_store(url)
    make_store(url)
    report = verify_store(url)
    assert report.ok, report.problems
    store = open_store(url, identity_of(), verify="full")
    rows = [row for unit in range(3) for row in rows_of(unit)]
    assert list(store.keys()) == [row.key for row in rows]
    for number, row in enumerate(rows):
        assert store.labels(number).log_probs.equal(labels_of(row).log_probs)
        assert store.name(number) == row.name
        np.testing.assert_array_equal(store.tokens(number), row.tokens)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert again.labels(3).ids.equal(store.labels(3).ids)


def test_files_are_fetched_once_and_a_damaged_copy_is_made_anew(url, client, tmp_path):
    make_store(url)
    before = open_store(url, verify="full").labels(1).ids
    copies = [path for path in (tmp_path / "cache" / "files").rglob("*") if path.is_file()]
    assert len(copies) == 4  # three shards and the index
    for path in copies:
        damaged = bytearray(path.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
    assert open_store(url, verify="full").labels(1).ids.equal(before)
    client.rm(f"{url}/data", recursive=True)
    with pytest.raises(CorruptShard, match="missing"):
        open_store(url)


_READERS = """
import os, sys, time
from pathlib import Path

import s3fs  # like the store, before the processes part: it takes seconds
from kdcore.store import open_store
from kdcore.store.storage import remote as place_remote

url, folder, readers = sys.argv[1], Path(sys.argv[2]), []
real = place_remote.RemotePlace._download

def counted(self, name, *rest):
    with open(folder / "fetched", "a") as file:
        file.write(name + "\\n")
    time.sleep(0.1)
    real(self, name, *rest)

def read(me):
    place_remote.RemotePlace("s3", url.removeprefix("s3://")).entries()
    (folder / f"ready-{me}").touch()
    until = time.monotonic() + 60
    while len(list(folder.glob("ready-*"))) < 4:
        assert time.monotonic() < until
        time.sleep(0.001)
    store = open_store(url, verify="quick")
    (folder / f"names-{me}").write_text(str([store.name(row) for row in range(store.num_rows)]))

place_remote.RemotePlace._download = counted
for me in range(4):
    readers.append(os.fork())
    if not readers[-1]:
        read(me)
        os._exit(0)
sys.exit(any([os.waitpid(reader, 0)[1] for reader in readers]))
"""


def test_many_processes_fetch_a_file_once(url, tmp_path):
    manifest = open_store(make_store(url)).manifest
    shutil.rmtree(tmp_path / "cache" / "files")
    subprocess.run([sys.executable, "-c", _READERS, url, str(tmp_path)], check=True, timeout=120)
    names = str([row.name for unit in range(3) for row in rows_of(unit)])
    assert [file.read_text() for file in tmp_path.glob("names-*")] == [names] * 4
    wanted = [manifest.index.file, *(receipt.shard for receipt in manifest.shards)]
    assert sorted((tmp_path / "fetched").read_text().split()) == sorted(wanted)


def test_an_altered_object_is_refused(url, client):
    manifest = make_store(url) and open_store(url).manifest
    receipt = manifest.shards[1]
    content = bytearray(client.cat_file(f"{url}/{receipt.shard}"))
    content[len(content) // 2] ^= 1
    client.pipe_file(f"{url}/{receipt.shard}", bytes(content))
    assert [receipt.shard in problem for problem in verify_store(url).problems] == [True]
    with pytest.raises(CorruptShard, match="altered"):
        open_store(url, verify="full")
    client.pipe_file(f"{url}/{receipt.shard}", bytes(content[:-1]))
    with pytest.raises(CorruptShard, match="must have"):
        open_store(url)


def test_a_job_that_died_is_continued(url, client):
    open_for_writing(url, identity_of())
    receipt = publish_receipt(url, write_unit(url, 1))
    lost = write_unit(url, 0)  # died before its receipt
    lied = publish_receipt(url, write_unit(url, 2))
    client.rm_file(f"{url}/{lied.shard}")
    with pytest.raises(IdentityMismatch):
        open_for_writing(url, identity_of(input="other"))
    open_for_writing(url, identity_of())
    journal = read_receipts(url, UNITS)
    assert dict(journal) == {"unit-000001": receipt}
    assert [find_receipt(url, unit, digest) for unit, digest in UNITS.items()] == [None, receipt, None]
    assert "missing" in journal.notes[0]
    manifest = _finish(url)
    assert receipt in manifest.shards
    report = verify_store(url)
    assert report.ok
    assert lost.shard in report.notes[0]
    assert collect_garbage(url) == []  # too young
    assert collect_garbage(url, min_age_seconds=0) == [lost.shard]
    assert verify_store(url).notes == []


def test_of_publishers_at_once_exactly_one_wins(url):
    open_for_writing(url, identity_of())
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda _: write_unit(url, 0), range(8)))
        winners = set(pool.map(lambda receipt: publish_receipt(url, receipt), receipts))
        probes = set(pool.map(lambda number: publish_probe(url, bytes([number])), range(8)))
    assert len(winners) == 1
    assert probes == {read_probe(url)}
    publish_receipt(url, write_unit(url, 1))
    publish_receipt(url, write_unit(url, 2))
    journal = read_journal(url, UNITS)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: publish_manifest(url, identity_of(), journal, {"job": n}), range(4)))
    assert len({manifest.extra["job"] for manifest in made}) == 1
    assert open_store(url, verify="full").manifest.extra == made[0].extra
    assert verify_store(url).ok
    # The losers took their indexes away.
    assert sum(name.startswith("index-") for name in open_place(url).entries()) == 1


WIDE = pa.schema(
    [pa.field("key", pa.binary(16)), pa.field("occurrences", pa.int32()), pa.field("noise", pa.list_(pa.uint8()))]
)


def _wide_batches(fail):
    """One small batch, then about 12 MiB of noise that is no label: only the writer looks at it."""
    noise = pa.array([np.random.default_rng(0).integers(0, 255, 4 * MIB, np.uint8)])
    for _ in range(3):
        yield pa.record_batch([pa.array([bytes(16)], pa.binary(16)), pa.array([1], pa.int32()), noise], schema=WIDE)
    fail()


def test_a_writer_that_fails_midway_leaves_no_upload(url, client, monkeypatch):
    monkeypatch.setattr(place_remote, "_PART_BYTES", 5 * MIB)
    open_for_writing(url, identity_of())
    running = []

    def fail():
        running.extend(_uploads(client))
        raise ValueError("the teacher fell over")

    with pytest.raises(ValueError, match="fell over"):
        write_shard(url, "unit-000000", 0, WIDE, _wide_batches(fail), unit_digest="d")
    assert len(running) == 1  # so there was something to abort
    assert _uploads(client) == []
    assert open_place(url).sizes("data") == {}


def test_a_large_shard_appears_when_it_is_whole(url, client, monkeypatch):
    monkeypatch.setattr(place_remote, "_PART_BYTES", 5 * MIB)
    open_for_writing(url, identity_of())
    seen = []
    receipt = write_shard(
        url, "unit-000000", 0, WIDE, _wide_batches(lambda: seen.append(open_place(url).sizes("data"))), unit_digest="d"
    )
    assert seen == [{}]
    assert open_place(url).sizes("data") == {receipt.shard: receipt.bytes}
    assert receipt.bytes > 12 * MIB
    assert open_place(url).local_file(receipt.shard, receipt.bytes, receipt.digest).stat().st_size == receipt.bytes
    assert _uploads(client) == []


def test_uploads_of_killed_jobs_are_collected_and_others_are_not(url, client):
    make_store(url)
    bucket, key = "bucket", url.removeprefix("s3://bucket/")
    nested = (f"{key}/other/data/unit-000000-0-deadbeef.arrow", f"{key}/data/mine.arrow")
    for name in (f"{key}/data/unit-000000-0-deadbeef.arrow", "somebody/else", *nested):
        client.call_s3("create_multipart_upload", Bucket=bucket, Key=name)
    assert collect_garbage(url, min_age_seconds=1e10) == []  # this server dates every upload back to 2010
    assert collect_garbage(url, min_age_seconds=0, dry_run=True) == ["upload of data/unit-000000-0-deadbeef.arrow"]
    assert len(_uploads(client)) == 4
    assert collect_garbage(url, min_age_seconds=0) == ["upload of data/unit-000000-0-deadbeef.arrow"]
    assert sorted(_uploads(client)) == sorted(["somebody/else", *nested])
    client.clear_multipart_uploads(bucket)
    assert verify_store(url).ok


def test_credentials_are_nowhere(url, client):
    publish_probe(url, b"probe")
    make_store(url)
    store = open_store(url)
    texts = [client.cat_file(name) for name in client.find(url)]
    assert len(texts) == 11
    texts += [pickle.dumps(store), pickle.dumps(open_place(url)), repr(store).encode(), repr(open_place(url)).encode()]
    client.rm_file(f"{url}/{store.manifest.shards[0].shard}")
    with pytest.raises(KDError) as caught:
        open_store(url)
    texts.append(str(caught.value).encode())
    for secret in (KEY, SECRET, TOKEN):
        assert not any(secret.encode() in text for text in texts)


@pytest.mark.parametrize(
    "path", [f"s3://{KEY}:{SECRET}@bucket/x", f"s3://bucket/x?secret={SECRET}", "s3://", "s3://b/../c"]
)
def test_urls_with_credentials_or_tricks_are_refused(path):
    with pytest.raises(StoreError, match=r"labels\.path") as caught:
        open_store(path)
    assert SECRET not in str(caught.value)


def test_a_missing_bucket_is_said(client):
    with pytest.raises(StoreError, match="no-such-bucket"):
        open_for_writing("s3://no-such-bucket/x", identity_of())


def test_what_will_not_pass_is_not_called_unavailable(client):
    with pytest.raises(StoreError) as caught:
        open_place("s3://no-such-bucket/x").put("x", b"x")
    assert not isinstance(caught.value, StorageUnavailable)


def test_a_server_that_is_not_there_is_unavailable(client, monkeypatch, tmp_path):
    _point_to(monkeypatch, 1, tmp_path)
    with pytest.raises(StorageUnavailable):
        open_place("s3://bucket/x").read("x")


def test_filesystems_of_other_code_keep_their_settings(client):
    retries = client.retries
    assert open_place("s3://bucket/x")._fs.retries == 2  # type: ignore[attr-defined]
    assert s3fs.S3FileSystem().retries == retries == s3fs.S3FileSystem.retries


@pytest.fixture
def unwell(port, client, monkeypatch, tmp_path):
    with front(port) as (front_port, control):
        _point_to(monkeypatch, front_port, tmp_path)
        control.failing = lambda: True
        yield control


def test_a_storage_that_is_down_is_one_clear_error_soon(url, unwell):
    began = time.monotonic()
    for action in (
        lambda: open_store(url),
        lambda: open_for_writing(url, identity_of()),
        lambda: write_unit(url, 0),
        lambda: open_place(url).put_if_absent("x", b"x"),
    ):
        with pytest.raises(StorageUnavailable, match="Check that the storage answers") as caught:
            action()
        assert url in str(caught.value)
        assert SECRET not in str(caught.value)
    assert time.monotonic() - began < 60


def test_a_storage_that_is_down_for_a_moment_is_asked_again(url, unwell):
    unwell.failing = lambda: unwell.answered % 4 == 1
    make_store(url)
    unwell.failing = lambda: False
    assert verify_store(url).ok
    assert open_store(url, verify="full").num_rows == 12


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    from kdcore.errors import MissingExtra

    monkeypatch.setitem(sys.modules, "s3fs", None)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingExtra, match=r"kdcore\[s3\]"):
        open_place("s3://bucket/x")
