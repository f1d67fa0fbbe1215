"""Kills, races, full disks: a store is unfinished or right, and every row is in it once."""

import errno
import json
import os
import threading

import pytest

from kdcore.errors import CorruptShard, IdentityMismatch, IncompleteStore, LabelError, OutOfSpace, StoreError
from kdcore.store import (
    begin_or_continue,
    collect_garbage,
    find_receipt,
    open_for_writing,
    open_place,
    open_store,
    publish_manifest,
    publish_probe,
    publish_receipt,
    read_journal,
    read_receipts,
    verify_store,
    write_shard,
)
from kdcore.store.storage.local import LocalPlace
from tests.support.stores import UNITS, identity_of, make_store, rows_of, write_unit


@pytest.fixture
def store(tmp_path):
    open_for_writing(tmp_path / "s", identity_of())
    return tmp_path / "s"


PARTS = ("no part", "empty part", "altered part", "part of another shard", "agreed too often", "nan")


def _with_bad_part(receipt, another):
    value = vars(receipt)
    flipped = value["part"][:40] + chr(ord(value["part"][40]) ^ 1) + value["part"][41:]
    return {
        "no part": {name: field for name, field in value.items() if name != "part"},
        "empty part": {**value, "part": ""},
        "altered part": {**value, "part": flipped},
        "part of another shard": {**value, "part": another},
        "agreed too often": {**value, "agreed": 1},
        "nan": {**value, "negative_log_likelihood": float("nan")},
    }


def _leftovers(store):
    return [file.name for file in store.rglob(".*")]


def _finish(store):
    for unit, name in enumerate(UNITS):
        if name not in read_receipts(store):
            publish_receipt(store, write_unit(store, unit))
    return publish_manifest(store, identity_of(), read_journal(store, UNITS))


def test_a_store_is_continued_by_the_same_identity_only(store):
    before = (store / "identity.json").read_bytes()
    assert open_for_writing(store, identity_of(versions={"torch": "9"})).url == str(store)
    assert (store / "identity.json").read_bytes() == before
    with pytest.raises(IdentityMismatch, match=r"numerics\.context: stored 128, wanted 256"):
        open_for_writing(store, identity_of(numerics={"context": 256}))


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        open_for_writing(tmp_path, identity_of())
    with pytest.raises(StoreError):
        open_for_writing(tmp_path / "thesis.tex", identity_of())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["thesis.tex"]


HUB = ("README.md", "data/train-00000-of-00001.arrow", "data/unit-000000-0-0123abcd.arrow")


@pytest.mark.parametrize(
    "names",
    [
        HUB,
        ("README.md",),
        ("journal/monday.txt",),
        ("data/deep/x.txt",),
        ("manifest.json",),
        ("index-of-words.arrow",),
        (".git/HEAD",),
    ],
)
def test_folders_with_names_like_ours_are_not_taken_over(tmp_path, names):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a person's own")
    before = sorted(tmp_path.rglob("*"))
    for begin in (lambda: open_for_writing(tmp_path, identity_of()), lambda: publish_probe(tmp_path, b"x")):
        with pytest.raises(StoreError, match=r"labels\.path"):
            begin()
    with pytest.raises(StoreError, match="nothing was removed"):
        collect_garbage(tmp_path, 0)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_probe_that_is_not_ours_begins_no_store(tmp_path):
    (tmp_path / "probe.json").write_text('{"content": "", "digest": ""}')
    (tmp_path / "data").mkdir()
    (tmp_path / HUB[2]).write_text("a person's own")
    with pytest.raises(StoreError, match=r"labels\.path"):
        open_for_writing(tmp_path, identity_of())
    with pytest.raises(StoreError, match="altered"):
        collect_garbage(tmp_path, 0)
    assert (tmp_path / HUB[2]).exists()


@pytest.mark.parametrize("url", [False, True])
def test_what_a_killed_beginner_leaves_is_no_obstacle(tmp_path, url):
    path = f"memory://{tmp_path.name}/begun" if url else tmp_path / "begun"
    place = open_place(path)
    place.prepare("data", "journal")
    place.put(".identity.json.0123456789abcdef.tmp", b"{")
    place.put(".trial.0123456789abcdef.tmp", b"trial")
    open_for_writing(path, identity_of())
    assert sorted(collect_garbage(path, 0)) == [
        ".identity.json.0123456789abcdef.tmp",
        ".trial.0123456789abcdef.tmp",
    ]


def test_a_store_begun_while_another_job_looks_is_continued(tmp_path, monkeypatch):
    real = LocalPlace.entries

    def entries(place, folder=""):
        if not (tmp_path / "s" / "identity.json").exists():
            monkeypatch.setattr(LocalPlace, "entries", real)
            open_for_writing(tmp_path / "s", identity_of())
            write_unit(tmp_path / "s", 0)
        return real(place, folder)

    monkeypatch.setattr(LocalPlace, "entries", entries)
    assert open_for_writing(tmp_path / "s", identity_of()).url == str(tmp_path / "s")


def test_a_shard_that_is_named_while_garbage_is_sought_stays(store, monkeypatch):
    receipt = write_unit(store, 0)
    real = LocalPlace.ages

    def ages(place, folder):
        found = real(place, folder)
        if folder == "data":
            publish_receipt(store, receipt)
        return found

    monkeypatch.setattr(LocalPlace, "ages", ages)
    assert collect_garbage(store, 0) == []
    assert (store / receipt.shard).exists()


def test_the_first_receipt_of_a_unit_wins(store):
    first, second = write_unit(store, 0), write_unit(store, 0)
    assert first.shard != second.shard
    assert first.digest == second.digest
    assert find_receipt(store, first.unit, first.unit_digest) is None
    assert publish_receipt(store, first) == first
    assert publish_receipt(store, second) == first
    found = find_receipt(store, first.unit, first.unit_digest)
    assert found is not None
    assert vars(found) == vars(first)
    manifest = _finish(store)
    assert manifest.shards[0] == first
    opened = open_store(store, verify="full")
    assert len(set(opened.keys())) == opened.num_rows == 12


def test_many_attempts_at_once_agree_on_one_winner(store):
    receipts = [write_unit(store, 0) for _ in range(8)]
    start, winners = threading.Barrier(8), []

    def publish(receipt):
        start.wait()
        winners.append(publish_receipt(store, receipt))

    threads = [threading.Thread(target=publish, args=(receipt,)) for receipt in receipts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 8
    assert len(set(winners)) == 1
    assert read_receipts(store) == {"unit-000000": winners[0]}


@pytest.mark.parametrize("damage", ["missing", "truncated", "torn receipt", "empty receipt", "outside", *PARTS])
def test_a_receipt_that_proves_nothing_is_dropped_and_replaced(store, damage):
    receipt = publish_receipt(store, write_unit(store, 0))
    journal, shard = store / "journal" / "unit-000000.json", store / receipt.shard
    if damage == "missing":
        shard.unlink()
    elif damage == "truncated":
        os.truncate(shard, receipt.bytes - 1)
    elif damage == "outside":
        journal.write_text(json.dumps({**vars(receipt), "shard": "../x.arrow"}))
    elif damage in PARTS:
        journal.write_text(json.dumps(_with_bad_part(receipt, write_unit(store, 1).part)[damage]))
    else:
        journal.write_text(journal.read_text()[:20] if damage == "torn receipt" else "")
    found = read_receipts(store)
    assert found == {}
    assert "unit-000000" in found.notes[0]
    assert find_receipt(store, "unit-000000", receipt.unit_digest) is None
    again = write_unit(store, 0)
    assert publish_receipt(store, again) == again
    assert _finish(store).shards[0] == again
    assert verify_store(store).ok


def test_a_killed_job_leaves_an_unfinished_store_that_continues(store):
    publish_receipt(store, write_unit(store, 1))
    write_unit(store, 0)  # killed before its receipt
    (store / "data" / ".unit-000002-0-00000000.arrow.partial").write_bytes(b"ARROW1")  # killed in the middle
    (store / "journal" / ".unit-000002.json.0123456789abcdef.tmp").write_text("{")
    (store / ".manifest.json.0123456789abcdef.tmp").write_text("{")
    with pytest.raises(IncompleteStore):
        open_store(store)
    with pytest.raises(StoreError, match="2 of 3 units have no valid receipt"):
        read_journal(store, UNITS)
    assert list(read_receipts(store, UNITS)) == ["unit-000001"]
    open_for_writing(store, identity_of())
    _finish(store)
    opened = open_store(store, identity_of(), verify="full")
    assert sorted(opened.keys()) == sorted(row.key for unit in range(3) for row in rows_of(unit))


def test_one_of_several_jobs_begins_a_store(tmp_path):
    assert begin_or_continue(tmp_path / "s", identity_of())
    assert not begin_or_continue(tmp_path / "s", identity_of())
    with pytest.raises(IdentityMismatch):
        begin_or_continue(tmp_path / "s", identity_of(numerics={"context": 256}))


def test_units_that_were_cut_differently_are_refused(store):
    publish_receipt(store, write_unit(store, 0))
    with pytest.raises(StoreError, match=r"labels\.unit_bytes"):
        read_receipts(store, {**UNITS, "unit-000000": "other"})
    with pytest.raises(StoreError, match="cut differently"):
        read_receipts(store, {"unit-000009": "digest-0"})
    with pytest.raises(StoreError, match="cut differently"):
        find_receipt(store, "unit-000000", "other")
    other = write_unit(store, 0)
    with pytest.raises(StoreError, match="cut differently"):
        publish_receipt(store, type(other)(**{**vars(other), "unit_digest": "other"}))


def test_a_key_in_two_rows_is_refused(store):
    for unit in range(2):
        publish_receipt(store, write_unit(store, unit, rows=rows_of(0)))
    with pytest.raises(StoreError, match="4 keys"):
        publish_manifest(store, identity_of(), list(read_receipts(store).values()))
    assert not (store / "manifest.json").exists()


def test_receipts_without_parts_finish_nothing(store):
    receipts = [publish_receipt(store, write_unit(store, unit)).listed() for unit in range(3)]
    with pytest.raises(CorruptShard, match="part of the index"):
        publish_manifest(store, identity_of(), receipts)


def test_a_manifest_keeps_no_part(store):
    manifest = _finish(store)
    assert manifest.shards[0].part == ""
    assert b'"part"' not in (store / "manifest.json").read_bytes()


def test_a_unit_twice_is_refused(store):
    receipt = publish_receipt(store, write_unit(store, 0))
    with pytest.raises(StoreError):
        publish_manifest(store, identity_of(), [receipt, receipt])


def test_the_first_manifest_wins(tmp_path):
    store = make_store(tmp_path / "s")
    before = (store / "manifest.json").read_bytes()
    again = publish_manifest(store, identity_of(versions={}), read_journal(store, UNITS), {"statistics": {"nll": 9.0}})
    assert again.extra == {"statistics": {"nll": 1.5}}
    assert (store / "manifest.json").read_bytes() == before
    assert _leftovers(store) == []


def test_a_store_finished_under_other_versions_says_both(store):
    for unit in range(3):
        publish_receipt(store, write_unit(store, unit))
    manifest = publish_manifest(store, identity_of(versions={"torch": "9"}), read_journal(store, UNITS), {"a": 1})
    assert manifest.identity == identity_of()
    assert manifest.extra == {"a": 1, "finished_with": {"torch": "9"}}
    assert verify_store(store).ok


def test_what_was_begun_is_not_finished_as_another(store):
    for unit in range(3):
        publish_receipt(store, write_unit(store, unit))
    with pytest.raises(IdentityMismatch, match="input"):
        publish_manifest(store, identity_of(input="other"), read_journal(store, UNITS))


def test_an_empty_unit_is_a_shard_without_rows(store):
    publish_receipt(store, write_unit(store, 0, rows=[]))
    manifest = _finish(store)
    assert manifest.shards[0].rows == 0
    assert open_store(store, verify="full").num_rows == 8
    assert verify_store(store).ok


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["fsync", "rename"])
def test_a_full_disk_is_said_and_leaves_no_partial_file(store, monkeypatch, code, where):
    def full(*_):
        raise OSError(code, os.strerror(code))

    published = publish_receipt(store, write_unit(store, 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, where, full)
        with pytest.raises(OutOfSpace, match="free") as caught:
            write_unit(store, 0)
    assert str(store) in str(caught.value)
    assert _leftovers(store) == []
    assert [file.name for file in (store / "data").iterdir()] == [published.shard.removeprefix("data/")]
    _finish(store)
    assert verify_store(store).ok


def test_a_limit_on_file_size_stops_in_the_middle_of_a_shard(store):
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OutOfSpace, match="needed at least"):
            write_unit(store, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list((store / "data").iterdir()) == []


def test_other_failures_of_the_disk_are_not_called_full(store, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StoreError, match="Input/output"):
        write_unit(store, 0)


def test_errors_of_the_rows_pass_through_and_leave_nothing(store):
    from kdcore.store import store_schema
    from tests.support.stores import codec_of

    def rows():
        yield from ()
        raise LabelError("logits of sample-3")

    with pytest.raises(LabelError, match="sample-3"):
        write_shard(store, "unit-000000", 0, store_schema("text", codec_of()), rows(), unit_digest="d")
    assert list((store / "data").iterdir()) == []


@pytest.mark.parametrize("unit", ["../evil", "a/b", "", ".hidden", "unit 1"])
def test_unit_names_are_file_names(store, unit):
    with pytest.raises(StoreError, match="unit id"):
        write_shard(store, unit, 0, None, [], unit_digest="d")


def test_publishing_a_file_is_all_or_nothing(tmp_path):
    path, place = tmp_path / "f", LocalPlace(tmp_path)
    assert place.put_if_absent("f", b"one")
    assert not place.put_if_absent("f", b"two")
    assert path.read_bytes() == b"one"
    place.put("f", b"three")
    assert path.read_bytes() == b"three"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
