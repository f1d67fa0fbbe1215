"""A damaged store is refused with a CorruptShard (or its like), never read short and never with a crash."""

import json
import os
import shutil
from pathlib import Path

import pytest
from store_fixtures import CLASSES, codec_of, identity_of, make_store, rows_of, write_unit

from kdcore.errors import CorruptShard, IdentityMismatch, KDError, StoreError
from kdcore.identity import digest_json
from kdcore.labels import DenseCodec, TopKCodec
from kdcore.store import open_for_writing, open_store, store_schema, verify_store
from kdcore.store.index import read_part
from kdcore.store.shard import Shard
from kdcore.store.verify import check_digest
from kdcore.store.writer import Receipt


@pytest.fixture
def path(tmp_path):
    return make_store(tmp_path / "s")


def _shards(path: Path) -> list[Path]:
    return sorted((path / "data").glob("*.arrow"))


def _edit_manifest(path: Path, change, seal: bool = True) -> None:
    value = json.loads((path / "manifest.json").read_text())
    change(value)
    if seal:
        value.pop("digest", None)
        value["digest"] = digest_json(value)
    (path / "manifest.json").write_text(json.dumps(value))


def _small(tmp_path: Path) -> tuple[Path, Receipt, bytes]:
    store = tmp_path / "small"
    open_for_writing(store, identity_of())
    receipt = write_unit(store, 0, rows=rows_of(0)[:2])
    return store, receipt, (store / receipt.shard).read_bytes()


def _open_shard(store: Path, receipt: Receipt) -> None:
    codec = codec_of()
    read_part(Shard(store, receipt, store_schema("text", codec)), codec)


def test_truncation_at_every_byte_is_refused(tmp_path):
    store, receipt, content = _small(tmp_path)
    _open_shard(store, receipt)
    for size in reversed(range(len(content))):
        os.truncate(store / receipt.shard, size)
        with pytest.raises(CorruptShard, match="bytes"):
            _open_shard(store, receipt)


def test_truncation_is_refused_even_when_the_size_is_said_to_be_right(tmp_path):
    store, receipt, content = _small(tmp_path)
    for size in reversed(range(len(content))):
        os.truncate(store / receipt.shard, size)
        with pytest.raises(CorruptShard):
            _open_shard(store, Receipt(**{**vars(receipt), "bytes": size}))


def test_a_flipped_bit_anywhere_changes_the_digest_and_never_crashes_a_reader(tmp_path):
    store, receipt, content = _small(tmp_path)
    unseen = 0
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        # A published file is replaced by rename; an open map of the old one must not change.
        fresh = store / "data" / "fresh"
        fresh.write_bytes(damaged)
        fresh.replace(store / receipt.shard)
        with pytest.raises(CorruptShard, match="altered"):
            check_digest(store, receipt)
        try:
            _open_shard(store, receipt)
            unseen += 1
        except StoreError:
            continue
    assert unseen > 0  # so the digest is needed: without it, some flips pass


def test_zeros_in_the_second_half_are_refused(tmp_path):
    store, receipt, content = _small(tmp_path)
    half = len(content) // 2
    (store / receipt.shard).write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(CorruptShard):
        _open_shard(store, receipt)


def test_full_verification_names_every_bad_shard(path):
    first, second, third = _shards(path)
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    third.unlink()
    report = verify_store(path)
    assert not report.ok
    assert first.name in report.problems[0]
    assert third.name in report.problems[1]
    assert not any(second.name in problem for problem in report.problems)
    with pytest.raises(CorruptShard):
        open_store(path, verify="full")


def test_a_missing_shard_is_said(path):
    _shards(path)[1].unlink()
    with pytest.raises(CorruptShard, match="missing"):
        open_store(path)


def test_verification_reports_progress(path):
    calls = []
    assert verify_store(path, full=False, progress=lambda done, total: calls.append((done, total))).ok
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_shard_of_another_row_of_the_store_is_refused(path):
    first, second, _ = _shards(path)
    shutil.copy(first, second)
    with pytest.raises(CorruptShard):
        open_store(path)


@pytest.mark.parametrize("name", ["/etc/passwd", "data/../../x.arrow", "../x.arrow", "data/a/b.arrow", "data/.h.arrow"])
def test_paths_that_leave_the_store_are_refused(path, name):
    _edit_manifest(path, lambda value: value["shards"][0].update(shard=name))
    with pytest.raises(CorruptShard, match="refused"):
        open_store(path)


def test_symbolic_links_are_refused(path, tmp_path):
    shard = _shards(path)[0]
    shard.rename(tmp_path / "elsewhere.arrow")
    shard.symlink_to(tmp_path / "elsewhere.arrow")
    with pytest.raises(CorruptShard, match="symbolic link"):
        open_store(path)


def test_a_linked_data_directory_is_refused(path, tmp_path):
    (path / "data").rename(tmp_path / "elsewhere")
    (path / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptShard, match="symbolic link"):
        open_store(path)


def test_a_restated_codec_is_refused(path):
    _edit_manifest(path, lambda value: value["identity"].update(codec=TopKCodec(3, CLASSES).spec()))
    with pytest.raises(IdentityMismatch, match="manifest says"):
        open_store(path)
    _edit_manifest(path, lambda value: value["identity"].update(codec=DenseCodec(CLASSES).spec()))
    with pytest.raises(IdentityMismatch):
        open_store(path)


def test_a_manifest_altered_without_its_digest_is_refused(path):
    _edit_manifest(path, lambda value: value["shards"].pop(), seal=False)
    with pytest.raises(CorruptShard, match="digest"):
        open_store(path)


def test_an_identity_file_that_disagrees_is_reported(path):
    identity = json.loads((path / "identity.json").read_text())
    identity["teacher"]["weights"] = "zz"
    (path / "identity.json").write_text(json.dumps(identity))
    assert "teacher.weights" in verify_store(path).problems[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(format=3),
        lambda value: value.update(shards={}),
        lambda value: value.update(identity=[]),
        lambda value: value.update(identity={}),
        lambda value: value.update(extra=None),
        lambda value: value["identity"].update(kind="sound"),
        lambda value: value["identity"].update(codec={"type": "new"}),
        lambda value: value["identity"].update(codec="topk"),
        lambda value: value["shards"][0].update(rows=5),
        lambda value: value["shards"][0].update(rows=-1),
        lambda value: value["shards"][0].update(labels="many"),
        lambda value: value["shards"][0].update(more=1),
        lambda value: value["shards"].insert(0, 7),
    ],
)
def test_malformed_manifests_are_refused(path, change):
    _edit_manifest(path, change)
    with pytest.raises(StoreError):
        open_store(path)


def test_truncated_manifests_are_refused(path):
    content = (path / "manifest.json").read_bytes()
    for size in range(0, len(content), 17):
        (path / "manifest.json").write_bytes(content[:size])
        with pytest.raises(KDError):
            open_store(path)


def test_a_reader_keeps_what_it_opened_when_a_shard_is_replaced(path):
    store = open_store(path)
    before = store.labels(1)
    shard = _shards(path)[0]
    (path / "data" / "other").write_bytes(bytes(shard.stat().st_size))
    (path / "data" / "other").replace(shard)
    assert store.labels(1).log_probs.equal(before.log_probs)
