"""What is written is what is read, by row, by key and by other tools."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from kdcore.errors import IdentityMismatch, IncompleteStore, MissingLabels, StoreError
from kdcore.identity import sample_key_text
from kdcore.labels import TopKLabels, concat
from kdcore.store import batches_from_rows, open_store, store_schema, token_dtype, verify_store
from tests.support.stores import CLASSES, codec_of, identity_of, labels_of, make_store, row_of, rows_of

ROWS = [row for unit in range(3) for row in rows_of(unit)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "text")


@pytest.fixture(scope="module")
def store(path):
    return open_store(path, identity_of(), verify="full")


def _same(left, right):
    assert isinstance(left, TopKLabels)
    assert torch.equal(left.ids, right.ids)
    assert torch.equal(left.log_probs, right.log_probs)
    assert torch.equal(left.tail_log_prob, right.tail_log_prob)


def test_rows_read_back(store):
    assert (store.kind, store.num_rows, store.num_classes) == ("text", 12, CLASSES)
    assert store.num_labels == sum(len(row.tokens) - 1 for row in ROWS) == store.num_labels_per_row().sum()
    assert store.num_tokens_per_row().tolist() == [len(row.tokens) for row in ROWS]
    assert store.occurrences().tolist() == [row.occurrences for row in ROWS]
    assert list(store.keys()) == [row.key for row in ROWS]
    for number, row in enumerate(ROWS):
        assert store.name(number) == row.name
        np.testing.assert_array_equal(store.tokens(number), row.tokens)
        assert store.tokens(number).dtype == np.int64
        np.testing.assert_array_equal(store.tokens_of([number, 0])[0], row.tokens)
        np.testing.assert_array_equal(store.token_log_probs(number), row.columns["token_log_probs"])
        _same(store.labels(number), labels_of(row))
        _same(store.labels_for_key(row.key), labels_of(row))


def test_slices_of_many_rows_are_decoded_in_order(store):
    wanted = [(5, 1, 4), (2, 0, 6), (5, 0, 2), (0, 0, 0), (11, 3, 9)]
    found = store.labels_of(*map(list, zip(*wanted, strict=True)))
    _same(found, concat([labels_of(ROWS[row]).index(slice(start, stop)) for row, start, stop in wanted]))
    np.testing.assert_array_equal(store.token_log_probs(5, 1, 3), ROWS[5].columns["token_log_probs"][1:3])
    assert store.labels_of([], [], []).num_labels == 0


def test_a_shard_is_looked_at_once_for_all_rows_of_a_call(path, monkeypatch):
    store = open_store(path)
    store.labels_of([0], [0], [0])
    looked = []
    monkeypatch.setattr(store, "_opened", lambda number, opened=store._opened: looked.append(number) or opened(number))
    store.labels_of([0, 1, 5, 2, 4], [0] * 5, [0] * 5)
    assert looked == [0, 1]


@pytest.mark.parametrize(
    ("row", "start", "stop"), [(12, 0, 1), (-1, 0, 1), (1, 0, 99), (1, -1, 2), (1, 3, 2), (0, 0, 1)]
)
def test_labels_outside_a_row_are_refused(store, row, start, stop):
    with pytest.raises(IndexError):
        store.labels_of([row], [start], [stop])


def test_a_missing_sample_is_said(store):
    assert ROWS[0].key in store
    assert sample_key_text("other") not in store
    with pytest.raises(MissingLabels, match=sample_key_text("other").hex()):
        store.labels_for_key(sample_key_text("other"))


def test_keys_that_end_in_zero_bytes_are_kept(tmp_path):
    from kdcore.store import open_for_writing, publish_manifest, publish_receipt
    from tests.support.stores import write_unit

    rows = [row_of(0, 1), row_of(0, 2)]
    keys = [b"\1" + bytes(15), b"\1" + bytes(14) + b"\2"]
    rows = [type(row)(key, row.name, 1, row.columns, row.tokens) for key, row in zip(keys, rows, strict=True)]
    open_for_writing(tmp_path, identity_of())
    receipt = publish_receipt(tmp_path, write_unit(tmp_path, 0, rows=rows))
    publish_manifest(tmp_path, identity_of(), [receipt])
    assert list(open_store(tmp_path).keys()) == keys
    _same(open_store(tmp_path).labels_for_key(keys[0]), labels_of(rows[0]))


def test_image_stores(tmp_path):
    store = open_store(make_store(tmp_path / "s", "image"), identity_of("image"), verify="full")
    assert (store.kind, store.num_labels) == ("image", 12)
    assert store.targets().tolist() == [-1, 1, 2, 3] * 3
    rows = [row for unit in range(3) for row in rows_of(unit, "image")]
    found = store.labels_of(list(range(12)), [0] * 12, [1] * 12)
    _same(found, concat([labels_of(row) for row in rows]))
    assert verify_store(tmp_path / "s").ok


def test_a_row_wider_than_a_batch_and_many_batches(store, monkeypatch):
    import kdcore.store.schema as schema

    monkeypatch.setattr(schema, "_BATCH_BYTES", 1)
    batches = list(batches_from_rows(store_schema("text", codec_of()), rows_of(0)))
    assert [batch.num_rows for batch in batches] == [1, 1, 1, 1]


def test_many_batches_and_few_open_shards_read_the_same(tmp_path, monkeypatch):
    import kdcore.store.reader as reader
    import kdcore.store.schema as schema

    monkeypatch.setattr(schema, "_BATCH_BYTES", 300)
    monkeypatch.setattr(reader, "_OPEN_SHARDS", 1)
    store = open_store(make_store(tmp_path / "s"))
    for number in (0, 11, 5, 6, 1, 11):
        _same(store.labels(number), labels_of(ROWS[number]))
        np.testing.assert_array_equal(store.tokens(number), ROWS[number].tokens)
        assert store.name(number) == ROWS[number].name


def test_a_row_without_a_codec_column_is_refused():
    row = row_of(0, 1)
    broken = type(row)(row.key, row.name, 1, {"ids": row.columns["ids"]}, row.tokens)
    with pytest.raises(StoreError, match="log_probs"):
        list(batches_from_rows(store_schema("text", codec_of()), [broken]))


def test_token_types():
    assert token_dtype(65_536) == np.uint16
    assert token_dtype(65_537) == np.int32


def test_a_store_travels_between_processes(store):
    again = pickle.loads(pickle.dumps(store))  # noqa: S301
    _same(again.labels(3), labels_of(ROWS[3]))


def test_bytes_per_label_are_the_arrays_bytes(store):
    weights = store.bytes_per_label()
    ids = sum(row.columns["ids"].nbytes for row in ROWS) / store.num_labels
    assert ids <= weights["ids"] <= ids + 4 * (len(ROWS) + 3) / store.num_labels
    assert weights["total"] == store.manifest.num_bytes / store.num_labels
    assert sum(size for name, size in weights.items() if name != "total") < weights["total"]


def test_another_identity_is_refused_with_both_values(path):
    teacher = {"path": "models/x", "weights": "bb", "dtype": "float32"}
    with pytest.raises(IdentityMismatch, match=r"teacher\.weights: stored 'aa', wanted 'bb'"):
        open_store(path, identity_of(teacher=teacher))
    open_store(path, identity_of(versions={"torch": "3"}))
    open_store(path, identity_of(input="j"), ignore=("input",))


def test_no_manifest_is_no_store(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(IncompleteStore, match=r"manifest\.json"):
            open_store(place)
        with pytest.raises(IncompleteStore):
            verify_store(place)


def test_the_manifest_says_what_there_is(store):
    manifest = store.manifest
    assert manifest.extra == {"statistics": {"nll": 1.5}}
    assert [shard.unit for shard in manifest.shards] == ["unit-000000", "unit-000001", "unit-000002"]
    assert (manifest.num_rows, manifest.num_labels) == (store.num_rows, store.num_labels)


def test_datasets_opens_it_by_its_card(path, tmp_path):
    datasets = pytest.importorskip("datasets")
    # What an interrupted attempt left behind is not part of the store.
    (path / "data" / "unit-000000-9-00000000.arrow").write_bytes(b"ARROW1 torn")
    try:
        rows = datasets.load_dataset(str(path), cache_dir=str(tmp_path))["train"]
    finally:
        (path / "data" / "unit-000000-9-00000000.arrow").unlink()
    assert rows.num_rows == 12
    assert rows[5]["name"] == ROWS[5].name
    assert rows[5]["ids"] == ROWS[5].columns["ids"].tolist()
    assert rows[5]["key"] == ROWS[5].key


def test_pyarrow_opens_it(path):
    table = pa.dataset.dataset(str(path / "data"), format="arrow").to_table()
    assert sorted(table["name"].to_pylist()) == sorted(row.name for row in ROWS)
