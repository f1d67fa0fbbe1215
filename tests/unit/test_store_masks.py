"""Stores in which only some tokens are labelled: what they hold, and what of it is refused."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.errors import CorruptShard
from kdcore.identity import digest_json
from kdcore.labels import ThresholdCodec
from kdcore.labels.spans import spans_of
from kdcore.store import (
    ShardRow,
    batches_from_rows,
    open_for_writing,
    open_store,
    publish_manifest,
    publish_receipt,
    read_journal,
    store_schema,
    verify_store,
    write_shard,
)
from kdcore.store.columns import check_batch, hard_labels, labels_per_row
from kdcore.store.manifest import manifest_text
from kdcore.store.part import unpack_part
from tests.support.stores import CLASSES, UNITS, codec_of, identity_of, make_store, row_of

MASK = {"mask": "completion"}


def masked_row(unit: int, number: int) -> ShardRow:
    """Row `number` of a unit, of which two in three labels are kept; none of the row with one token."""
    row = row_of(unit, number)
    assert row.tokens is not None
    count = len(row.tokens) - 1
    positions = np.array([place for place in range(count) if (place + number) % 3], int)
    lines = {name: values.reshape(count, values.size // max(1, count)) for name, values in row.columns.items()}
    kept = {name: values[positions].reshape(-1) for name, values in lines.items()}
    return replace(row, columns={**kept, "label_spans": spans_of(positions)})


def schema(masked: bool = True) -> pa.Schema:
    return store_schema("text", codec_of(), masked=masked)


def batch_of(*rows: ShardRow) -> pa.RecordBatch:
    (batch,) = batches_from_rows(schema(), rows)
    return batch


def write(path, change=lambda row: row):
    """A store of masked rows, each of which `change` may alter."""
    open_for_writing(path, identity_of(**MASK))
    for unit, name in enumerate(UNITS):
        rows = [change(masked_row(unit, number)) for number in range(4)]
        batches = batches_from_rows(schema(), rows)
        publish_receipt(path, write_shard(path, name, 0, schema(), batches, unit_digest=UNITS[name], codec=codec_of()))
    publish_manifest(path, identity_of(**MASK), read_journal(path, UNITS))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("masked") / "store")


def test_labels_lie_at_their_positions(path, tmp_path):
    store, whole = open_store(path), open_store(make_store(tmp_path / "whole"))
    assert store.masked
    assert not whole.masked
    assert verify_store(path).ok
    assert store.num_labels == store.num_labels_per_row().sum() < whole.num_labels
    for row in range(store.num_rows):
        positions = store.label_positions(row)
        assert len(positions) == store.num_labels_per_row()[row]
        assert store.token_log_probs(row).tolist() == whole.token_log_probs(row)[positions].tolist()
        some, every = store.labels(row), whole.labels(row).index(torch.from_numpy(positions))
        for name, values in vars(some).items():
            assert np.array_equal(values, vars(every)[name]), name
        targets = store.row_view(row).targets
        assert targets is not None
        assert targets.tolist() == store.tokens(row)[1:][positions].tolist()
        assert whole.label_positions(row).tolist() == list(range(max(0, len(store.tokens(row)) - 1)))


def test_a_stores_index_and_receipts_count_its_labels(path):
    store = open_store(path)
    receipts = read_journal(path, UNITS)
    parts = [unpack_part(receipt.part, receipt.digest, receipt.rows, "here") for receipt in receipts]
    counted = [part.labels.tolist() for part in parts if part.labels is not None]
    assert [count for part in counted for count in part] == store.num_labels_per_row().tolist()
    assert store.num_labels_per_row().tolist() != (store.num_tokens_per_row() - 1).tolist()


def test_a_store_without_a_mask_has_no_trace_of_it(tmp_path):
    path = make_store(tmp_path / "whole")
    assert "label_spans" not in schema(masked=False).names
    assert "mask" not in (path / "identity.json").read_text()
    (part,) = [unpack_part(r.part, r.digest, r.rows, "here") for r in read_journal(path, UNITS)][:1]
    assert part.labels is None


@pytest.mark.parametrize(
    "spans",
    [
        [[0, 1], [1, 2]],
        [[3, 3], [0, 0]],
        [[0, 1], [2, 3]],
        [[2, 1]],
        [[-1, 0]],
        [[0, 99]],
        [[4, 5]],
        [0, 1, 3],
        [[0, 6]],
    ],
)
def test_spans_that_cannot_be_are_refused_when_written_and_when_read(tmp_path, spans):
    row = row_of(0, 1)  # six tokens, five labels
    bad = replace(row, columns={**row.columns, "label_spans": np.array(spans, np.int32)})
    with pytest.raises(CorruptShard, match="label_spans"):
        check_batch(batch_of(bad), "here")
    open_for_writing(tmp_path, identity_of(**MASK))
    with pytest.raises(CorruptShard, match="label_spans"):
        write_shard(tmp_path, "unit-000000", 0, schema(), batches_from_rows(schema(), [bad]), unit_digest="d")


def test_spans_of_more_labels_than_there_are_are_refused(tmp_path):
    def more(row):
        return replace(row, columns={**row.columns, "label_spans": np.array([[0, 0]], np.int32)})

    with pytest.raises(CorruptShard, match="labels"):
        write(tmp_path / "s", lambda row: more(row) if len(row.columns["label_spans"]) else row)


def test_a_manifest_that_forgets_the_mask_opens_no_shard(path, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    value = json.loads((copy / "manifest.json").read_text())
    del value["identity"]["mask"], value["digest"]
    value["digest"] = digest_json(value)
    (copy / "manifest.json").write_bytes(manifest_text(value))
    with pytest.raises(CorruptShard):
        open_store(copy).labels(1)
    assert not verify_store(copy).ok


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.sets(st.integers(0, 10))), max_size=6), st.data())
def test_counts_and_hard_labels_of_any_slice(rows, data):
    made = []
    for number, (size, places) in enumerate(rows):
        positions = np.array(sorted(place for place in places if place < size - 1), int)
        columns = {name: np.zeros(0, entry) for name, entry in _DTYPES.items()}
        made.append(
            ShardRow(bytes(16), str(number), 1, {**columns, "label_spans": spans_of(positions)}, np.arange(size) + 3)
        )
    for batch in batches_from_rows(schema(), made):
        start = data.draw(st.integers(0, len(rows)))
        stop = data.draw(st.integers(start, len(rows)))
        part = batch.slice(start, stop - start)
        check_batch(part, "here")
        wanted = [sorted(place for place in places if place < size - 1) for size, places in rows[start:stop]]
        assert labels_per_row(part).tolist() == [len(places) for places in wanted]
        assert hard_labels(part).tolist() == [place + 4 for places in wanted for place in places]


_DTYPES = {"ids": np.uint16, "log_probs": np.float16, "tail_log_prob": np.float16, "token_log_probs": np.float16}


def test_a_coder_that_spares_the_hard_label_takes_that_of_the_position(tmp_path):
    from kdcore.labels import label_seeds
    from tests.support.labels import codec_of as counts_codec

    codec = counts_codec("threshold", 12, CLASSES)
    assert isinstance(codec, ThresholdCodec)
    tokens, positions = np.arange(10, 30) % CLASSES, np.array([3, 4, 9, 18])
    logits = torch.zeros(19, CLASSES).scatter_(1, torch.from_numpy(tokens[1:])[:, None], 6.0)
    encoded = codec.encode(logits[positions], label_seeds(bytes(16), 19)[positions])
    columns = codec.pack([encoded], [tokens[1:][positions]])[0]
    columns |= {"label_spans": spans_of(positions), "token_log_probs": np.zeros(4, np.float16)}
    identity = {**identity_of(**MASK), "codec": codec.spec()}
    open_for_writing(tmp_path, identity)
    wanted = store_schema("text", codec, masked=True)
    batches = batches_from_rows(wanted, [ShardRow(bytes(16), "x", 1, columns, tokens)])
    publish_receipt(tmp_path, write_shard(tmp_path, "unit-000000", 0, wanted, batches, unit_digest="d", codec=codec))
    publish_manifest(tmp_path, identity, read_journal(tmp_path, {"unit-000000": "d"}), {}, codec.state())
    assert verify_store(tmp_path).ok
    found = open_store(tmp_path).labels(0)
    ends = found.offsets.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    best = [found.ids[start:stop][found.weights[start:stop].argmax()] for start, stop in pairwise(ends)]  # pyright: ignore
    assert [int(index) for index in best] == tokens[1:][positions].tolist()
