"""A damaged store is refused with a CorruptShard (or its like), never read short and never with a crash."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from kdcore.errors import CorruptShard, IdentityMismatch, KDError, StoreError
from kdcore.identity import digest_bytes, digest_json
from kdcore.labels import DenseCodec, TopKCodec
from kdcore.store import (
    load_manifest,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_probe,
    read_probe,
    store_schema,
    verify_store,
)
from kdcore.store.index import read_part
from kdcore.store.manifest import manifest_text
from kdcore.store.shard import Shard
from kdcore.store.verify import check_digest
from kdcore.store.writer import Receipt
from tests.support.stores import CLASSES, codec_of, identity_of, make_store, rows_of, write_unit


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("whole") / "s")


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "s")


def _shards(path: Path) -> list[Path]:
    return sorted((path / "data").glob("*.arrow"))


def _edit_manifest(path: Path, change, seal: bool = True) -> None:
    value = json.loads((path / "manifest.json").read_text())
    change(value)
    if seal:
        value.pop("digest", None)
        value["digest"] = digest_json(value)
    (path / "manifest.json").write_bytes(manifest_text(value))


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
    for size in reversed(range(0, len(content), 3)):
        os.truncate(store / receipt.shard, size)
        with pytest.raises(CorruptShard):
            _open_shard(store, Receipt(**{**vars(receipt), "bytes": size}))


def test_a_flipped_bit_anywhere_changes_the_digest_and_never_crashes_a_reader(tmp_path):
    store, receipt, content = _small(tmp_path)
    unseen = 0
    for position in range(0, len(content), 7):
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


def test_no_bit_of_identity_json_changes_unseen(tmp_path):
    identity = identity_of(numerics={"epsilon": 1e-06})
    open_for_writing(tmp_path, identity)
    publish_manifest(tmp_path, identity, [write_unit(tmp_path, 0)])
    assert verify_store(tmp_path).ok
    file = tmp_path / "identity.json"
    content = file.read_bytes()
    for bit in [*range(0, 8 * len(content), 31), 8 * content.index(b"e-06") + 5]:  # the last one says E-06
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        file.write_bytes(damaged)
        assert any("identity.json" in problem for problem in verify_store(tmp_path, full=False).problems), bit
    assert b"1E-06" in damaged


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
        lambda value: value["shards"].clear(),
        lambda value: value.update(shards=[], rows=0, labels=0, bytes=0),
        lambda value: value.update(rows=value["rows"] + 1),
        lambda value: value.update(index=None),
        lambda value: value["index"].update(file="index-zz.arrow"),
        lambda value: value["index"].update(bytes=1),
        lambda value: value["index"].update(digest="00" * 16),
        lambda value: value.update(columns={"ids": -1}),
        lambda value: value.update(codec_state="%%%"),
        lambda value: value.update(codec_state="AAAA"),
        lambda value: value.pop("created"),
        lambda value: value.update(more=1),
        lambda value: value["identity"].update(vocabulary="many"),
        lambda value: (value["shards"][0].update(rows=5), value.update(rows=value["rows"] + 1)),
        lambda value: (value["shards"][0].update(labels=99), value.update(labels=sum(_labels(value)))),
    ],
)
def test_malformed_manifests_are_refused(path, change):
    _edit_manifest(path, change)
    with pytest.raises(StoreError):
        open_store(path)


def _labels(value: dict) -> list[int]:
    return [shard["labels"] for shard in value["shards"]]


def test_format_1_is_refused_with_one_clear_line(path):
    _edit_manifest(path, lambda value: value.update(format=1))
    with pytest.raises(CorruptShard, match="format 1, which was never released") as caught:
        open_store(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.arrow", "data/x.arrow", "index-00.arrow/../x", "index-..arrow"])
def test_an_index_elsewhere_is_refused(path, name):
    _edit_manifest(path, lambda value: value["index"].update(file=name))
    with pytest.raises(CorruptShard, match="refused"):
        open_store(path)


def test_a_linked_index_is_refused(path, tmp_path):
    index = _index(path)
    index.rename(tmp_path / "elsewhere")
    index.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptShard, match="symbolic link"):
        open_store(path)


def _index(path: Path) -> Path:
    return next(path.glob("index-*.arrow"))


def test_truncated_and_flipped_indexes_are_refused(path):
    content = _index(path).read_bytes()
    for size in (*range(0, len(content), 11), len(content) - 1):
        _index(path).write_bytes(content[:size])
        with pytest.raises(CorruptShard, match="must have"):
            open_store(path)
    for position in range(0, len(content), 19):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        _index(path).write_bytes(damaged)
        with pytest.raises(CorruptShard, match="altered"):
            open_store(path)
    assert "altered" in verify_store(path).problems[0]
    _index(path).unlink()
    with pytest.raises(CorruptShard, match="missing"):
        open_store(path)


def _reseal_index(path: Path, change) -> None:
    """An index that is right by its digest, with a column changed."""
    file = _index(path)
    table = pa.ipc.open_file(file.read_bytes()).read_all()
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    change(columns)
    batch = pa.record_batch([pa.array(columns[entry.name], entry.type) for entry in table.schema], schema=table.schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(batch)
    size, digest = file.stat().st_size, digest_bytes(file.read_bytes())
    _edit_manifest(path, lambda value: value["index"].update(bytes=size, digest=digest))


def _swap(values: list) -> None:
    values[0], values[1] = values[1], values[0]


@pytest.mark.parametrize("column", ["key", "occurrences", "length", "shard", "batch", "row"])
def test_an_index_that_contradicts_its_shards_is_refused(path, column):
    def change(columns):
        if column in ("shard", "batch"):
            columns[column][0] = 1
        elif column == "occurrences":
            columns[column][0] = 9
        else:
            _swap(columns[column])

    _reseal_index(path, change)
    problems = verify_store(path, full=False).problems
    assert problems, column
    with pytest.raises(CorruptShard):
        open_store(path).labels(1)


def test_swapped_shards_are_named(path, tmp_path):
    # Rows of one size, so that nothing but their content tells two shards apart.
    store = tmp_path / "even"
    open_for_writing(store, identity_of())
    receipts = [
        write_unit(store, unit, rows=[replace(row, key=_key(unit, n)) for n, row in enumerate(rows_of(0))])
        for unit in range(2)
    ]
    publish_manifest(store, identity_of(), receipts)
    first, second = (store / receipt.shard for receipt in receipts)
    assert first.stat().st_size == second.stat().st_size
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    for full in (True, False):
        problems = verify_store(store, full).problems
        assert len(problems) == 2
        assert all("swapped or doubled" in problem for problem in problems)
        assert first.name in problems[0]
        assert second.name in problems[0]
    with pytest.raises(CorruptShard, match="swapped"):
        open_store(store).labels(1)
    with pytest.raises(CorruptShard, match="altered"):
        open_store(store, verify="full")


def _key(unit: int, number: int) -> bytes:
    return bytes([unit, number]) * 8


def test_doubled_shards_and_units_are_named(path):
    def shard_twice(value):
        value["shards"][1].update(shard=value["shards"][0]["shard"])

    _edit_manifest(path, shard_twice)
    with pytest.raises(CorruptShard, match=r"every shard may be in .* once, but 'data/unit-000000"):
        open_store(path)


def test_a_unit_twice_in_a_manifest_is_named(path):
    _edit_manifest(path, lambda value: value["shards"][1].update(unit=value["shards"][0]["unit"]))
    with pytest.raises(CorruptShard, match=r"every unit may be in .* once, but 'unit-000000'"):
        open_store(path)


def test_missing_extra_and_doubled_rows_have_their_own_messages(path):
    assert verify_store(path).notes == []
    shutil.copy(_shards(path)[0], path / "data" / "unit-000000-9-stray.arrow")
    report = verify_store(path)
    assert report.ok
    assert "not in the manifest" in report.notes[0]
    assert "unit-000000-9-stray" in report.notes[0]
    _shards(path)[0].unlink()
    assert "missing" in verify_store(path).problems[0]


def test_a_shard_cut_or_written_to_under_a_reader_is_an_error_not_a_signal(path):
    store = open_store(path)
    store.labels(1)
    shard = _shards(path)[0]
    content = shard.read_bytes()
    with open(shard, "r+b") as file:
        file.write(bytes(len(content)))
    os.utime(shard, ns=(1, 1))
    with pytest.raises(CorruptShard, match="written to while"):
        store.labels(1)
    os.truncate(shard, 0)
    with pytest.raises(CorruptShard, match="must have"):
        store.labels(1)
    with pytest.raises(CorruptShard, match="must have"):
        store.name(1)
    store = open_store(make_store(path.parent / "other"))
    os.truncate(_index(path.parent / "other"), 0)
    with pytest.raises(CorruptShard, match="must have"):
        store.labels(1)
    with pytest.raises(CorruptShard, match="must have"):
        store.occurrences()


class _Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "name", [b"arrow.py_extension_type", b"ray.data.arrow_tensor", b"ray.data.arrow_pickled_object"]
)
@pytest.mark.parametrize("where", ["field", "schema"])
def test_an_extension_type_with_a_pickle_runs_nothing_and_is_refused(path, tmp_path, name, where):
    trap = tmp_path / "trapped"
    payload = pickle.dumps(_Trap(trap))
    receipt = open_store(path).manifest.shards[0]
    table = pa.ipc.open_file((path / receipt.shard).read_bytes()).read_all()
    extension = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": payload}
    schema = table.schema
    if where == "field":
        place = schema.get_field_index("name")
        schema = schema.set(place, schema.field(place).with_metadata(extension))
    else:
        schema = schema.with_metadata({**schema.metadata, **extension, b"pickle": payload})
    with pa.OSFile(str(path / receipt.shard), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table(table.columns, schema=schema))
    content = (path / receipt.shard).read_bytes()

    def reseal(value):
        value["bytes"] += len(content) - value["shards"][0]["bytes"]
        value["shards"][0].update(bytes=len(content), digest=digest_bytes(content))

    _edit_manifest(path, reseal)
    assert payload in content
    with pytest.raises(CorruptShard, match="metadata of their own"):
        open_store(path, verify="full").labels(1)
    assert receipt.shard in verify_store(path).problems[0]
    assert not trap.exists()
    pickle.loads(payload)  # noqa: S301 - the trap does work
    assert trap.exists()


def test_no_registered_extension_type_is_asked_to_read_a_shard(path):
    """Other packages register types with Arrow, for the whole process; they would read what the file says of them."""
    asked = []

    class Curious(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.int32(), "kdcore.test.curious")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage_type, serialized):
            asked.append(serialized)
            return cls()

    shard = _shards(path)[0]
    table = pa.ipc.open_file(shard.read_bytes()).read_all()
    extension = {b"ARROW:extension:name": b"kdcore.test.curious", b"ARROW:extension:metadata": b"x"}
    place = table.schema.get_field_index("occurrences")
    schema = table.schema.set(place, table.schema.field(place).with_metadata(extension))
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.table(table.columns, schema=schema))
    content = shard.read_bytes()
    receipt = Receipt(**{**vars(load_manifest(path).shards[0]), "bytes": len(content), "digest": digest_bytes(content)})
    pa.register_extension_type(Curious())
    try:
        assert pa.ipc.open_file(content).schema.field("occurrences").type == Curious()
        assert asked
        asked.clear()
        with pytest.raises(CorruptShard, match="extension type"):
            _open_shard(path, receipt)
        assert asked == []
    finally:
        pa.unregister_extension_type("kdcore.test.curious")


def test_an_edited_probe_is_refused(tmp_path):
    content = bytes(range(200))
    assert publish_probe(tmp_path, content) == content
    assert publish_probe(tmp_path, b"another") == content
    file = tmp_path / "probe.json"
    whole = file.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"probe\.json"):
            read_probe(tmp_path)
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(StoreError, match="altered"):
            read_probe(tmp_path)
    file.unlink()
    assert read_probe(tmp_path) is None


def test_full_verification_refuses_every_flipped_bit_of_a_store(path):
    """Any bit of any file that the manifest names, and of the manifest."""
    refused = 0
    for file in [*_shards(path), _index(path), path / "manifest.json"]:
        content = file.read_bytes()
        for position in range(0, len(content), 97):
            damaged = bytearray(content)
            damaged[position] ^= 1 << (position % 8)
            file.write_bytes(damaged)
            with pytest.raises(StoreError):
                open_store(path, verify="full")
            refused += 1
        file.write_bytes(content)
    assert refused > 100
    assert verify_store(path).ok


def test_a_manifest_that_says_the_same_in_other_words_is_refused(path):
    file = path / "manifest.json"
    text = file.read_text()
    for other in (text + "\n", text.replace(": ", ":", 1), text.replace("1.5", "1.50"), text.replace("1.5", "15e-1")):
        assert other != text
        assert json.loads(other) == json.loads(text)
        file.write_text(other)
        with pytest.raises(CorruptShard, match="form that it is written in"):
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
