"""Codecs against the full distribution in float64, and labels that cannot be."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.labels import DenseConfig, TopKConfig
from kdcore.errors import LabelError
from kdcore.labels import (
    Codec,
    DenseCodec,
    DenseLabels,
    FeatureCodec,
    RowView,
    TopKCodec,
    TopKLabels,
    check_logits,
    codec_from_spec,
    join,
)
from kdcore.labels.fixed import FixedWidth
from kdcore.labels.id_sets import bytes_of_ids, pack_ids, unpack_ids
from kdcore.labels.learn import fixed_codec
from tests.support.labels import codec_of, logits_of, no_seeds, packed, round_trip

FIXED = [TopKCodec(3, 17), TopKCodec(3, 17, 8), DenseCodec(17), DenseCodec(17, 8), FeatureCodec((("a", 10), ("b", 7)))]


def topk_of(k: int, classes: int) -> Codec:
    codec = fixed_codec(TopKConfig(k=k), classes)
    assert codec is not None
    return codec


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 50), st.integers(0, 1000), st.floats(0.01, 30))
def test_topk_keeps_the_head_and_the_exact_tail(rows, classes, k, seed, scale):
    logits = logits_of(rows, classes, seed, scale)
    labels = round_trip(topk_of(k, classes), logits)
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
    logits = logits_of(50, 30)
    labels = round_trip(TopKCodec(5, 30), logits)
    assert isinstance(labels, TopKLabels)
    assert torch.equal(labels.ids, logits.topk(5, dim=1).indices)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9), st.integers(1, 40), st.integers(1, 50), st.integers(0, 1000), st.floats(0.01, 30))
def test_topk_in_8_bits_is_within_its_bound(rows, classes, k, seed, scale):
    """Twice the bound of a byte: the values are renormalised, which adds at most the bound of the sum."""
    logits = logits_of(rows, classes, seed, scale)
    codec = TopKCodec(min(k, classes), classes, 8)
    labels, wanted = round_trip(codec, logits), round_trip(TopKCodec(codec.k, classes), logits)
    assert isinstance(labels, TopKLabels)
    assert isinstance(wanted, TopKLabels)
    assert labels.ids.sort(1).values.tolist() == wanted.ids.sort(1).values.tolist()
    assert (labels.log_probs.diff(dim=1) <= 0).all()
    known = torch.log_softmax(logits.double(), 1)
    exact = torch.cat([known.gather(1, labels.ids), known.scatter(1, labels.ids, -math.inf).logsumexp(1)[:, None]], 1)
    found = torch.cat([labels.log_probs, labels.tail_log_prob[:, None]], 1).double()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(rows).double(), rtol=0, atol=2e-6)
    assert torch.equal(exact.isneginf(), found.isneginf())
    kept = exact > -22.9
    off = (found[kept] - exact[kept]).abs()
    assert (off <= exact[kept].clamp(max=0).abs().sqrt() / 53 + math.sqrt(math.log(k + 1)) / 53 + 1e-3).all()


def test_equal_entries_in_8_bits_lie_by_rising_id():
    labels = round_trip(TopKCodec(3, 6, 8), torch.tensor([[0.0, 2.0, 5.0, 2.0, 1.0, -1.0]]))
    assert isinstance(labels, TopKLabels)
    assert labels.ids.tolist() == [[2, 1, 3]]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 4), st.integers(1, 200), st.integers(1, 200_000), st.integers(0, 1000))
def test_sets_of_ids_are_packed_and_read_again(rows, k, classes, seed):
    k, rng = min(k, classes), np.random.default_rng(seed)
    ids = np.array([np.sort(rng.choice(classes, k, replace=False)) for _ in range(rows)], np.int64).reshape(rows, k)
    if rows > 1:
        ids[0], ids[1] = np.arange(k), np.arange(classes - k, classes)
    packed = pack_ids(ids, classes)
    assert packed.shape == (rows, bytes_of_ids(k, classes))
    np.testing.assert_array_equal(unpack_ids(packed, k, classes), ids)
    assert bytes_of_ids(k, classes) <= -(-k * max(1, (classes - 1).bit_length()) // 8) + 1


def test_a_set_of_ids_by_hand():
    """Of 8 classes two: with one low bit 3 + 2 + 2 bits, with none 7 + 2. Ids 2 and 7 have high parts 1 and 3."""
    assert pack_ids(np.array([[2, 7]]), 8).tolist() == [[0b10_10010]]


@pytest.mark.parametrize("byte", [0, 0b00_00001, 0b00_00111, 0b01_00011, 0b00_00011])
def test_bits_that_are_no_set_are_refused(byte):
    """None, one, three; 1 before 0; twice 0."""
    with pytest.raises(LabelError, match="altered"):
        unpack_ids(np.array([[byte]], np.uint8), 2, 8)
    with pytest.raises(LabelError, match="below 7"):
        unpack_ids(pack_ids(np.array([[2, 7]]), 8), 2, 7)


def test_a_tail_far_below_float32_epsilon_is_not_lost():
    labels = round_trip(TopKCodec(1, 4), torch.tensor([[0.0, -40.0, -40.0, -40.0]]))
    assert isinstance(labels, TopKLabels)
    assert float(labels.tail_log_prob) == pytest.approx(-40 + math.log(3), abs=0.02)


def test_all_classes_kept_leaves_no_tail():
    codec = topk_of(99, 6)
    labels = round_trip(codec, logits_of(3, 6))
    assert isinstance(labels, TopKLabels)
    assert codec.spec() == {"type": "topk", "k": 6, "num_classes": 6}
    assert torch.isneginf(labels.tail_log_prob).all()


@pytest.mark.parametrize("codec", [TopKCodec(5, 8), TopKCodec(5, 8, 8), DenseCodec(8), DenseCodec(8, 8)])
def test_masked_classes_have_no_mass(codec):
    logits = logits_of(4, 8)
    logits[:, 3:] = float("-inf")
    labels = round_trip(codec, logits)
    assert isinstance(labels, TopKLabels | DenseLabels)
    assert torch.isfinite(labels.log_probs.exp()).all()
    assert (torch.isneginf(labels.log_probs).sum(1) == (2 if isinstance(labels, TopKLabels) else 5)).all()


def test_dense_round_trip_sums_to_one():
    logits = logits_of(20, 300)
    labels = round_trip(DenseCodec(300), logits)
    assert isinstance(labels, DenseLabels)
    torch.testing.assert_close(labels.log_probs, torch.log_softmax(logits, 1), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(labels.log_probs.double().exp().sum(1), torch.ones(20).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("codec", [TopKCodec(4, 20), TopKCodec(4, 20, 8), DenseCodec(20), DenseCodec(20, 8)])
def test_chunked_encoding_equals_one_chunk(codec, monkeypatch):
    import kdcore.labels.checks as checks

    logits = logits_of(64, 20)
    whole = codec.encode(logits, no_seeds(64))
    monkeypatch.setattr(checks, "_CHUNK_ELEMENTS", 7 * 20)
    for name, values in codec.encode(logits, no_seeds(64)).items():
        np.testing.assert_array_equal(values, whole[name])


@pytest.mark.parametrize(("classes", "dtype"), [(65_536, np.uint16), (65_537, np.int32)])
def test_every_class_id_survives(classes, dtype):
    logits = torch.full((2, classes), -5.0)
    logits[0, classes - 1] = logits[1, 0] = 20.0
    codec = TopKCodec(1, classes)
    assert codec.encode(logits, no_seeds(2))["ids"].dtype == dtype
    labels = round_trip(codec, logits)
    assert isinstance(labels, TopKLabels)
    assert labels.ids.flatten().tolist() == [classes - 1, 0]


@pytest.mark.parametrize("codec", FIXED)
def test_what_is_said_of_a_fixed_codec_is_true(codec):
    columns = codec.pack([codec.encode(logits_of(10, 17), no_seeds(10))], [None])[0]
    assert isinstance(codec, Codec)
    assert codec_from_spec(codec.spec()) == codec
    assert {field.name for field in codec.fields()} == set(columns) == set(codec.widths())
    assert sum(values.nbytes for values in columns.values()) == 10 * codec.bytes_per_label()
    for field in codec.fields():
        assert field.type.value_type.to_pandas_dtype() == columns[field.name].dtype
        assert columns[field.name].shape == (10 * codec.widths()[field.name],)


@pytest.mark.parametrize("name", ["sampled", "threshold"])
def test_what_is_said_of_a_counts_codec_is_true(name):
    codec = codec_of(name, 9, 40)
    columns = codec.pack([codec.encode(logits_of(10, 40), no_seeds(10))], [None])[0]
    again = codec_from_spec(codec.spec(), codec.state())
    assert isinstance(codec, Codec)
    assert again == codec
    assert again.spec() == codec.spec()
    assert hash(again) == hash(codec)
    assert codec != codec_of(name, 9, 40, seed=1)
    assert {field.name: field.type.value_type.to_pandas_dtype() for field in codec.fields()} == {
        column: values.dtype for column, values in columns.items()
    }
    assert again.bytes_per_label() == codec.bytes_per_label() > 0


@pytest.mark.parametrize("codec", [TopKCodec(2, 5), DenseCodec(5), DenseCodec(5, 8), codec_of("threshold", 4, 5)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_logits_are_refused_by_name(codec, value):
    logits = logits_of(4, 5)
    logits[2, 1] = value
    with pytest.raises(LabelError, match="row 2 of unit-7"):
        check_logits(logits, "unit-7")
    with pytest.raises(LabelError, match="row 2 of the batch"):
        codec.encode(logits, no_seeds(4))


def test_a_row_without_any_class_is_refused():
    logits = logits_of(2, 5)
    logits[1] = float("-inf")
    with pytest.raises(LabelError, match="probability zero"):
        check_logits(logits, "x")
    logits[1, 4] = 0.0
    check_logits(logits, "x")


@pytest.mark.parametrize("codec", [TopKCodec(2, 5), TopKCodec(2, 5, 8)])
def test_entries_give_the_columns_that_their_logits_would(codec):
    logits = torch.log_softmax(logits_of(40, 5).double(), 1).float()
    top, ids = logits.topk(2, dim=1)
    wanted = codec.encode(logits, no_seeds(40))
    found = codec.encode_entries(ids.numpy(), top.numpy())
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        np.testing.assert_allclose(found[name].astype(float), wanted[name].astype(float), rtol=2e-3, atol=0.02)


@pytest.mark.parametrize(
    "codec", [TopKCodec(2, 5), DenseCodec(5), codec_of("sampled", 4, 5), codec_of("threshold", 4, 5)]
)
def test_other_class_counts_are_refused(codec):
    with pytest.raises(LabelError, match="5 classes"):
        codec.encode(logits_of(2, 6), no_seeds(2))


def test_altered_columns_are_refused():
    codec = TopKCodec(2, 9)
    columns = codec.encode(logits_of(5, 9), no_seeds(5))
    for column, value in (("ids", 9), ("log_probs", np.float16(1.0)), ("tail_log_prob", np.float16("nan"))):
        altered = {name: values.copy() for name, values in columns.items()}
        altered[column][3] = value
        with pytest.raises(LabelError, match="altered"):
            codec.decode([RowView(altered, 5)], [0], [5])
        with pytest.raises(LabelError, match="altered"):
            codec.decode_columns(altered, 5)
    with pytest.raises(LabelError, match="must hold 6 labels"):
        codec.decode([RowView(columns, 6)], [0], [6])


@pytest.mark.parametrize("codec", [*FIXED, codec_of("threshold", 6, 17)])
def test_a_row_of_another_length_is_a_misfit(codec):
    sizes = np.array([3, 0, 129, 5])
    rows = [codec.encode(logits_of(int(size), 17), no_seeds(int(size))) for size in sizes]
    columns = codec.pack(rows, [None] * 4)
    lengths = {name: np.array([row[name].size for row in columns]) for name in columns[0]}
    assert codec.misfit(lengths, sizes) is None
    assert codec.misfit({name: values[:0] for name, values in lengths.items()}, sizes[:0]) is None
    for name in lengths:
        shorter = {**lengths, name: lengths[name] - [0, 0, lengths[name][2], 0]}
        assert codec.misfit(shorter, sizes) == 2
    assert codec.misfit(lengths, np.array([3, 1, 129, 5])) == 1


@pytest.mark.parametrize("codec", [*FIXED, codec_of("sampled", 6, 17)])
def test_slices_of_rows_are_slices_of_the_whole(codec):
    sizes = [4, 0, 7]
    outputs = logits_of(11, 17)
    encoded = [codec.encode(part, no_seeds(len(part))) for part in outputs.split(sizes)]
    rows = packed(codec, encoded, [None] * 3, sizes)
    whole = codec.decode(rows, [0, 0, 0], sizes)
    some = codec.decode(rows, [1, 0, 2], [4, 0, 3])
    assert some.num_labels == 4
    _same(some, whole.index([1, 2, 3, 6]))
    _same(codec.decode(packed(codec, [join(encoded)], [None], [11]), [0], [11]), whole)
    assert codec.decode([], [], []).num_labels == 0


def _same(first, second):
    assert type(first) is type(second)
    for each in fields(first):
        if not each.compare:
            continue
        mine, other = getattr(first, each.name), getattr(second, each.name)
        assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other


def test_fixed_codecs_learn_nothing():
    for codec in FIXED:
        assert isinstance(codec, FixedWidth)
        assert codec.state() is None
    assert fixed_codec(DenseConfig(bits=8), 4) == DenseCodec(4, 8)


@pytest.mark.parametrize("bits", [4, 12, 32])
def test_other_numbers_of_bits_are_refused(bits):
    with pytest.raises(LabelError, match="8 or 16"):
        DenseCodec(4, bits)


# The fine print of `dense`'s docstring: (log-probability, largest relative error of the probability before readers
# renormalise).
CLAIMS = [(-1.0, 0.019), (math.log(1e-3), 0.05), (math.log(1e-9), 0.09)]


@pytest.mark.parametrize(("log_prob", "bound"), CLAIMS)
def test_dense_in_8_bits_is_as_exact_as_it_says(log_prob, bound):
    """Every log-probability within a few steps of a claim's, against its byte: the bound holds, and is not generous."""
    values = torch.linspace(1.1 * log_prob, log_prob, 20_001, dtype=torch.float32)[:, None]
    kept = DenseCodec(1, 8)._stored(values).numpy().astype(np.float64)
    error = np.abs(np.expm1(-((kept / 53) ** 2) - values.double().numpy()))
    at = np.abs(values.numpy() - log_prob) <= 2 * 0.5 / 53 * math.sqrt(-log_prob)  # within half a step of the claim
    assert error[at].max() < bound * 1.02
    assert error.max() > 0.9 * bound


def test_dense_in_8_bits_caps_small_probabilities_and_keeps_zero():
    stored = DenseCodec(4, 8)._stored(torch.tensor([[0.0, -23.0, -300.0, float("-inf")]]))
    assert stored.tolist() == [[0, 254, 254, 255]]
    assert abs((254 / 53) ** 2 - 23) < 0.05


@pytest.mark.parametrize("classes", [1, 2, 3, 129, 50_000, 151_936])
@pytest.mark.parametrize("scale", [0.0, 1.0, 12.0])
def test_dense_in_8_bits_can_always_be_read_back(classes, scale):
    """Rounding never moves a label's sum by so much that it would be taken for damage; uniform is the worst."""
    logits = logits_of(3, classes, scale=scale)
    labels = round_trip(DenseCodec(classes, 8), logits)
    assert isinstance(labels, DenseLabels)
    torch.testing.assert_close(labels.log_probs.double().exp().sum(1), torch.ones(3).double(), rtol=0, atol=1e-5)
    exact = torch.log_softmax(logits.double(), 1)
    off = (labels.log_probs.exp() - exact.exp()).abs().sum(1)
    assert float(off.max()) < 0.1


@pytest.mark.parametrize("value", [255, 100, 0])
def test_altered_labels_of_8_bits_are_refused(value):
    codec = DenseCodec(50, 8)
    with pytest.raises(LabelError, match="altered"):
        codec.decode_columns({"log_probs": np.full(100, value, np.uint8)}, 2)
