"""Codecs against the full distribution in float64, and labels that cannot be."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.labels import DenseConfig, TopKConfig
from kdcore.errors import LabelError, StoreError
from kdcore.labels import DenseLabels, TopKLabels, check_logits, codec_from_spec, concat, make_codec


def _logits(rows: int, classes: int, seed: int = 0, scale: float = 4.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * scale


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 50), st.integers(0, 1000), st.floats(0.01, 30))
def test_topk_keeps_the_head_and_the_exact_tail(rows, classes, k, seed, scale):
    logits = _logits(rows, classes, seed, scale)
    codec = make_codec(TopKConfig(k=k), classes)
    labels = codec.decode(codec.encode(logits), rows)
    assert isinstance(labels, TopKLabels)
    assert labels.ids.shape == (rows, min(k, classes))
    assert labels.ids.dtype == torch.int64
    assert labels.log_probs.dtype == labels.tail_log_prob.dtype == torch.float32
    probs = torch.softmax(logits.double(), 1)
    head = labels.log_probs.double().exp()
    torch.testing.assert_close(head, probs.gather(1, labels.ids), rtol=0.03, atol=1e-4)
    tail = probs.scatter(1, labels.ids, 0.0).sum(1)
    torch.testing.assert_close(labels.tail_log_prob.double().exp(), tail, rtol=0.03, atol=1e-4)
    total = head.sum(1) + labels.tail_log_prob.double().exp()
    torch.testing.assert_close(total, torch.ones(rows).double(), rtol=0, atol=2e-6)
    for row in labels.ids:
        assert len(set(row.tolist())) == len(row)


def test_topk_entries_are_the_most_probable_in_falling_order():
    logits = _logits(50, 30)
    codec = make_codec(TopKConfig(k=5), 30)
    labels = codec.decode(codec.encode(logits), 50)
    assert isinstance(labels, TopKLabels)
    assert torch.equal(labels.ids, logits.topk(5, dim=1).indices)


def test_a_tail_far_below_float32_epsilon_is_not_lost():
    logits = torch.tensor([[0.0, -40.0, -40.0, -40.0]])
    codec = make_codec(TopKConfig(k=1), 4)
    labels = codec.decode(codec.encode(logits), 1)
    assert isinstance(labels, TopKLabels)
    assert float(labels.tail_log_prob) == pytest.approx(-40 + math.log(3), abs=0.02)


def test_all_classes_kept_leaves_no_tail():
    codec = make_codec(TopKConfig(k=99), 6)
    labels = codec.decode(codec.encode(_logits(3, 6)), 3)
    assert isinstance(labels, TopKLabels)
    assert codec.spec() == {"type": "topk", "k": 6, "num_classes": 6}
    assert torch.isneginf(labels.tail_log_prob).all()


def test_masked_classes_have_no_mass():
    logits = _logits(4, 8)
    logits[:, 3:] = float("-inf")
    for config in (TopKConfig(k=5), DenseConfig()):
        codec = make_codec(config, 8)
        labels = codec.decode(codec.encode(logits), 4)
        mass = labels.log_probs.exp()
        assert torch.isfinite(mass).all()
        assert (torch.isneginf(labels.log_probs).sum(1) == (2 if isinstance(labels, TopKLabels) else 5)).all()


def test_dense_round_trip_sums_to_one():
    logits = _logits(20, 300)
    codec = make_codec(DenseConfig(), 300)
    labels = codec.decode(codec.encode(logits), 20)
    assert isinstance(labels, DenseLabels)
    torch.testing.assert_close(labels.log_probs, torch.log_softmax(logits, 1), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(labels.log_probs.double().exp().sum(1), torch.ones(20).double(), rtol=1e-6, atol=1e-6)


def test_chunked_encoding_equals_one_chunk(monkeypatch):
    import kdcore.labels.checks as checks

    logits = _logits(64, 20)
    codec = make_codec(TopKConfig(k=4), 20)
    whole = codec.encode(logits)
    monkeypatch.setattr(checks, "_CHUNK_ELEMENTS", 7 * 20)
    for name, values in codec.encode(logits).items():
        np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize(("classes", "dtype"), [(65_536, np.uint16), (65_537, np.int32)])
def test_every_class_id_survives(classes, dtype):
    logits = torch.full((2, classes), -5.0)
    logits[0, classes - 1] = logits[1, 0] = 20.0
    codec = make_codec(TopKConfig(k=1), classes)
    columns = codec.encode(logits)
    labels = codec.decode(columns, 2)
    assert isinstance(labels, TopKLabels)
    assert columns["ids"].dtype == dtype
    assert labels.ids.flatten().tolist() == [classes - 1, 0]


@pytest.mark.parametrize("config", [TopKConfig(k=3), DenseConfig()])
def test_what_is_said_of_a_codec_is_true(config):
    codec = make_codec(config, 17)
    columns = codec.encode(_logits(10, 17))
    assert codec_from_spec(codec.spec()) == codec
    assert {field.name for field in codec.fields()} == set(columns) == set(codec.widths())
    assert sum(values.nbytes for values in columns.values()) == 10 * codec.bytes_per_label()
    for field in codec.fields():
        assert field.type.value_type.to_pandas_dtype() == columns[field.name].dtype
        assert columns[field.name].shape == (10 * codec.widths()[field.name],)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_logits_are_refused_by_name(value):
    logits = _logits(4, 5)
    logits[2, 1] = value
    with pytest.raises(LabelError, match="row 2 of unit-7"):
        check_logits(logits, "unit-7")
    with pytest.raises(LabelError):
        make_codec(TopKConfig(k=2), 5).encode(logits)
    with pytest.raises(LabelError):
        make_codec(DenseConfig(), 5).encode(logits)


def test_a_row_without_any_class_is_refused():
    logits = _logits(2, 5)
    logits[1] = float("-inf")
    with pytest.raises(LabelError, match="probability zero"):
        check_logits(logits, "x")
    logits[1, 4] = 0.0
    check_logits(logits, "x")


def test_other_class_counts_are_refused():
    for config in (TopKConfig(k=2), DenseConfig()):
        with pytest.raises(LabelError, match="5 classes"):
            make_codec(config, 5).encode(_logits(2, 6))


def test_altered_columns_are_refused():
    codec = make_codec(TopKConfig(k=2), 9)
    columns = codec.encode(_logits(5, 9))
    for column, value in (("ids", 9), ("log_probs", np.float16(1.0)), ("tail_log_prob", np.float16("nan"))):
        altered = {name: values.copy() for name, values in columns.items()}
        altered[column][3] = value
        with pytest.raises(LabelError, match=r"altered"):
            codec.decode(altered, 5)
    with pytest.raises(LabelError, match="must hold 6 labels"):
        codec.decode(columns, 6)
    with pytest.raises(LabelError, match="missing"):
        codec.decode({"ids": columns["ids"]}, 5)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"type": "span", "num_classes": 3},
        {"type": ["topk"]},
        {"type": "topk", "k": 0, "num_classes": 3},
        {"type": "topk", "k": 4, "num_classes": 3},
        {"type": "topk", "k": True, "num_classes": 3},
        {"type": "dense", "num_classes": 3, "more": 1},
        {"type": "dense"},
    ],
)
def test_malformed_specs_are_refused(spec):
    with pytest.raises(StoreError):
        codec_from_spec(spec)


@pytest.mark.parametrize("config", [TopKConfig(k=3), DenseConfig()])
def test_index_and_concat_undo_each_other(config):
    codec = make_codec(config, 8)
    labels = codec.decode(codec.encode(_logits(6, 8)), 6)
    joined = concat(
        [labels.index(slice(0, 2)), labels.index([]), labels.index([2, 3]), labels.index(torch.tensor([4, 5]))]
    )
    assert joined.num_labels == 6
    assert torch.equal(joined.log_probs, labels.log_probs)
    assert labels.to("cpu").num_classes == 8


def test_concat_refuses_what_does_not_fit():
    dense = DenseLabels(torch.zeros(1, 4))
    topk = TopKLabels(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2), torch.zeros(1), 4)
    wider = TopKLabels(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1), 4)
    for parts in ([], [dense, topk], [topk, wider], [dense, DenseLabels(torch.zeros(1, 5))]):
        with pytest.raises(LabelError):
            concat(parts)
    with pytest.raises(LabelError):
        TopKLabels(torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2), torch.zeros(2), 4)
    with pytest.raises(LabelError):
        DenseLabels(torch.zeros(4))
