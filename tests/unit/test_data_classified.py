"""Texts with classes, read from rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdcore.config.data import ClassifiedTextData
from kdcore.data.document import ClassifiedText
from kdcore.data.keys import sample_key
from kdcore.data.sources import open_source
from kdcore.errors import DataError, UnreadableDocument

ROWS = [{"text": "good film", "label": 1}, {"text": "bad film", "label": 0}]


def _source(path, **settings):
    values = {"path": str(path), "num_classes": 2, "heldout_fraction": 0.0, **settings}
    return open_source(ClassifiedTextData.model_validate(values))


def _lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_and_parquet_give_the_same_samples(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    for path in (_lines(tmp_path / "rows.jsonl", ROWS), tmp_path / "rows.parquet"):
        source = _source(path)
        samples = [source.read(ref) for ref in source.list("train")]
        assert {(one.text, one.pair, one.target) for one in samples} == {("good film", None, 1), ("bad film", None, 0)}


def test_pairs_and_other_names(tmp_path):
    path = _lines(tmp_path / "rows.jsonl", [{"premise": "a", "hypothesis": "b", "gold": 2}])
    source = _source(path, field="premise", pair_field="hypothesis", label_field="gold", num_classes=3)
    (ref,) = source.list("train")
    assert source.read(ref) == ClassifiedText(ref.name, "a", "b", 2)


@pytest.mark.parametrize("label", [2, -1, "1", None, True, 0.5])
def test_a_row_needs_a_class(tmp_path, label):
    source = _source(_lines(tmp_path / "rows.jsonl", [{"text": "a", "label": label}]))
    (ref,) = source.list("train")
    with pytest.raises(UnreadableDocument, match=r"line at byte 0 needs a class of 0 \.\. 1 under 'label', has"):
        source.read(ref)


def test_a_missing_text_and_plain_files_say_so(tmp_path):
    source = _source(_lines(tmp_path / "rows.jsonl", [{"words": "a", "label": 1}]))
    with pytest.raises(UnreadableDocument, match=r"has no text under .text., only .*; set data\.field"):
        source.read(source.list("train")[0])
    (tmp_path / "plain.txt").write_text("a")
    source = _source(tmp_path / "plain.txt")
    with pytest.raises(UnreadableDocument, match="this is plain text"):
        source.read(source.list("train")[0])
    pq.write_table(pa.table({"label": [1]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"set data\.field"):
        _source(tmp_path / "rows.parquet").list("train")


def test_the_key_is_of_both_texts():
    samples = [ClassifiedText("x", *texts, 0) for texts in (("a", None), ("a", ""), ("a", "b"), ("ab", None))]
    keys = [sample_key(sample) for sample in samples]
    assert len(set(keys)) == 4
    assert keys[0] == sample_key(ClassifiedText("y", "a", None, 1))
